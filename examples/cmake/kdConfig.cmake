# kd.h for CMake 3.14 and later. `make install` puts this file beside the header; find_package(kd) reads it there, or
# in a copy of the repository with -Dkd_DIR=<repository>/examples/cmake.
#
#   kd::kd                                     where kd.h is, and what a program with KD_IMPLEMENTATION links with
#   kd_add_library(name [STATIC|SHARED])       the implementation as a library, in C or, in a project without C, in C++;
#                                              neither word: BUILD_SHARED_LIBS decides. Optimised in Debug, too, where
#                                              training would take ten times as long; not by MSVC, whose checks of Debug
#                                              refuse it
#
# What links with the library needs no KD_IMPLEMENTATION and no other definition.

foreach(kd_folder "${CMAKE_CURRENT_LIST_DIR}/../../../include" "${CMAKE_CURRENT_LIST_DIR}/../..")
    if(EXISTS "${kd_folder}/kd.h" AND NOT kd_INCLUDE_DIR)
        get_filename_component(kd_INCLUDE_DIR "${kd_folder}" ABSOLUTE)
    endif()
endforeach()
if(NOT kd_INCLUDE_DIR)
    set(kd_FOUND FALSE)
    set(kd_NOT_FOUND_MESSAGE "there is no kd.h at its place beside ${CMAKE_CURRENT_LIST_FILE}")
    return()
endif()

if(NOT TARGET kd::kd)
    find_package(Threads REQUIRED)
    add_library(kd::kd INTERFACE IMPORTED)
    set_target_properties(kd::kd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kd_INCLUDE_DIR}")
    if(NOT WIN32) # there the functions of libm are in the C library
        set_property(TARGET kd::kd APPEND PROPERTY INTERFACE_LINK_LIBRARIES m)
    endif()
    set_property(TARGET kd::kd APPEND PROPERTY INTERFACE_LINK_LIBRARIES Threads::Threads)
endif()

function(kd_add_library name)
    get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
    if("C" IN_LIST languages)
        set(source "${CMAKE_CURRENT_BINARY_DIR}/${name}_impl.c")
        set(compiler "${CMAKE_C_COMPILER_ID}")
    else()
        set(source "${CMAKE_CURRENT_BINARY_DIR}/${name}_impl.cpp")
        set(compiler "${CMAKE_CXX_COMPILER_ID}")
    endif()
    file(WRITE "${source}.new" "#define KD_IMPLEMENTATION\n#include \"kd.h\"\n")
    configure_file("${source}.new" "${source}" COPYONLY) # the time of a file that stays the same stays, too
    add_library(${name} ${ARGN} "${source}")
    target_link_libraries(${name} PUBLIC kd::kd)
    if(NOT compiler STREQUAL "MSVC")
        set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Debug>:-O2>")
    endif()
    get_target_property(type ${name} TYPE)
    if(type STREQUAL "SHARED_LIBRARY")
        target_compile_definitions(${name} PRIVATE KD_BUILD INTERFACE KD_SHARED)
        set_target_properties(${name} PROPERTIES C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden)
    endif()
endfunction()
