#!/bin/sh
# What `make install` puts in place is found and used: by pkg-config, and by CMake as a static library, a shared one, a
# DLL, in a project without C, and in Debug.
# Usage: tests/installed.sh
cd "$(dirname "$0")/.." || exit 1
. tests/checks.sh

prefix=$tmp/prefix
check "make install" make -s install PREFIX="$prefix"
installed() { (cd "$prefix" && find . -type f | sort | paste -s -d ' ') >"$tmp/found"; grep -q -x "$1" "$tmp/found" || { cat "$tmp/found"; false; }; }
check "it installs four files" installed \
    './include/kd.h ./lib/cmake/kd/kdConfig.cmake ./lib/cmake/kd/kdConfigVersion.cmake ./lib/pkgconfig/kd.pc'

printf '#define KD_IMPLEMENTATION\n' >"$tmp/one.c"
cat examples/cmake/app.c >>"$tmp/one.c"
if command -v pkg-config >/dev/null; then
    flags=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs kd)
    check "pkg-config" "${CC:-cc}" -std=c99 -DKD_NO_SIMD -o "$tmp/one" "$tmp/one.c" $flags
else
    skip "pkg-config" "not installed"
fi

# configured NAME OPTION...: a project is made and built; says so only where it fails
configured()
{
    name=$1
    shift
    cmake -S examples/cmake -B "$tmp/$name" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_FIND_ROOT_PATH="$prefix" \
        -DCMAKE_C_FLAGS=-DKD_NO_SIMD -DCMAKE_CXX_FLAGS=-DKD_NO_SIMD -DCMAKE_EXPORT_COMPILE_COMMANDS=ON "$@" \
        >"$tmp/cmake.log" 2>&1 && cmake --build "$tmp/$name" >>"$tmp/cmake.log" 2>&1 && return
    tail -n 20 "$tmp/cmake.log"
    false
}
runs() { "$1" >"$tmp/said" 2>&1 && grep -q "^kd.h $version on scalar: " "$tmp/said" || { cat "$tmp/said"; false; }; }
version=$(sed -n 's/^#define KD_VERSION "\(.*\)"/\1/p' kd.h)

if ! command -v cmake >/dev/null; then
    skip "CMake" "not installed"
    finish
    exit
fi
check "CMake: static library, Debug" configured static -DCMAKE_BUILD_TYPE=Debug
check "CMake: static library runs" runs "$tmp/static/app"
check "CMake: optimised in Debug, the program not" sh -c \
    "grep -q -e '-g -O2.*kd_impl.c' '$tmp/static/compile_commands.json' && ! grep -q -e '-O2.*app.c' '$tmp/static/compile_commands.json'"
check "CMake: shared library" configured shared -DBUILD_SHARED_LIBS=ON -DCMAKE_BUILD_TYPE=MinSizeRel
check "CMake: shared library runs" runs "$tmp/shared/app"
hidden() { [ -e "$1" ] && ! nm -D --defined-only "$1" | awk '{print $NF}' | grep -v -E '^kd_[a-z0-9_]+$'; }
check "CMake: the shared library shows kd_* alone" hidden "$tmp/shared/libkd.so"
if command -v c++ >/dev/null; then
    check "CMake: no C, Debug" configured plus -DAPP_LANGUAGE=CXX -DCMAKE_BUILD_TYPE=Debug
    check "CMake: no C, runs" runs "$tmp/plus/app"
else
    skip "CMake: no C" "no C++ compiler"
fi
if compiles x86_64-w64-mingw32-gcc; then
    check "CMake: DLL" configured dll -DBUILD_SHARED_LIBS=ON -DCMAKE_SYSTEM_NAME=Windows \
        -DCMAKE_C_COMPILER=x86_64-w64-mingw32-gcc
    check "CMake: DLL and program are there" test -e "$tmp/dll/libkd.dll" -a -e "$tmp/dll/app.exe"
else
    skip "CMake: DLL" "x86_64-w64-mingw32-gcc is not installed, or without a C library"
fi
for wanted in 0.2 0.2.0; do
    echo "set(PACKAGE_FIND_VERSION $wanted)
include($prefix/lib/cmake/kd/kdConfigVersion.cmake)
if(NOT PACKAGE_VERSION_COMPATIBLE)
message(FATAL_ERROR no)
endif()" >"$tmp/ask.cmake"
    check "CMake: version $wanted is there" cmake -P "$tmp/ask.cmake"
done
for wanted in 0.1.9 0.3 0.2.1 1.0; do
    sed -e "s/_VERSION [0-9.]*)/_VERSION $wanted)/" -e 's/if(NOT/if(/' "$tmp/ask.cmake" >"$tmp/refuse.cmake"
    check "CMake: version $wanted is not" cmake -P "$tmp/refuse.cmake"
done
check "CMake: from a copy of the repository" configured copy -Dkd_DIR="$PWD/examples/cmake" -DCMAKE_PREFIX_PATH=
check "make uninstall" make -s uninstall PREFIX="$prefix"
installed_nothing() { find "$prefix" -type f; }
check "make uninstall leaves no file" installed_nothing

finish
