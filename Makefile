# kd.h - `make help` says what there is. Needs gcc (or clang) and make; other packages are fetched by apt-get when
# run as root, otherwise the one command to run is printed.

CC ?= cc
CFLAGS ?= -O2
WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef
PREFIX ?= /usr/local
DESTDIR ?=
BUILD = build
OUT ?= out
VERSION := $(shell sed -n 's/^.define KD_VERSION "\(.*\)"/\1/p' kd.h)

EXAMPLES = $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c)) $(BUILD)/distill
TESTS = $(patsubst tests/%.c,$(BUILD)/%,$(wildcard tests/test_*.c))
SANITIZE = -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined

# $(call need,file that must be there,Debian package)
need = @test -e $(1) || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "fetching $(2)"; \
		{ apt-get install -y -qq $(2) || { apt-get update -qq && apt-get install -y -qq $(2); }; } >/dev/null 2>$(BUILD)/apt.log \
		|| { cat $(BUILD)/apt.log; exit 1; }; \
	else \
		echo "$(2) is missing: run  sudo apt-get install $(2)"; exit 1; \
	fi; }

.PHONY: help demo text fit fashion compare evidence hinton mcu web examples test fuzz ci ci-full bench bench-quick install uninstall format clean stb cmocka

help:
	@echo 'make demo       distil a small image classifier on images in examples/data; under 3 minutes on two idle cores'
	@echo 'make text       distil a classifier of bank customers'\'' questions, in examples/data; under 10 minutes on two cores'
	@echo 'make fit        a student that fits in 16 KB in 8 bits, chosen among many, beside some made by hand; under 6 minutes'
	@echo 'make fashion    the same on all of Fashion-MNIST (Debian package dataset-fashion-mnist)'
	@echo 'make hinton     DATA=<folder with MNIST>: the experiments of Hinton, Vinyals and Dean 2015; under an hour'
	@echo 'make compare    one student in every way, 5 seeds each: a table and a picture; hours, may be stopped'
	@echo 'make evidence   [DATA=<folder with mnist, cifar10>] [MINUTES=120]: what distilling brings; may be stopped'
	@echo 'make mcu        a student as C source on emulated Cortex-M0, M3, M4, M7 and an AVR: flash, RAM, instructions'
	@echo 'make sizes      flash and RAM of the demo'\''s student, as C source and with kd.h on the board'
	@echo 'make web        a student, and its teacher beside it, in one web page that needs no network: $(OUT)/web.html'
	@echo 'make examples   build the examples into $(BUILD)/'
	@echo 'make test       build and run the tests, with sanitizers'
	@echo 'make fuzz       libFuzzer on every parser, SECONDS=60 each'
	@echo 'make ci         all checks of a quarter of an hour as a table; ci-full: those of an hour'
	@echo 'make bench      kernels and training beside other libraries; bench-quick: in under a minute'
	@echo 'make install    kd.h, and files for pkg-config and CMake, into PREFIX ($(PREFIX)) under DESTDIR; make uninstall takes them away'
	@echo 'make format     lay out all sources by .clang-format'
	@echo 'make clean      remove $(BUILD)/'

$(BUILD):
	@mkdir -p $@

# ---- examples --------------------------------------------------------------------------------------------------

stb: | $(BUILD)
	$(call need,/usr/include/stb/stb_image_write.h,libstb-dev)

examples: stb $(EXAMPLES)

# The kernels are compiled once for all examples, which takes half the time; what is in a file of examples/ needs
# nothing but `cc -O2 examples/classify.c -lm`.
$(EXAMPLES): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/examples_kernels.o
	$(CC) $^ -o $@ $(LDFLAGS) -lm

EXAMPLE_COMPILE = $(CC) -std=gnu99 $(CFLAGS) $(WARNINGS) -c
EXAMPLE_NEEDS = kd.h $(wildcard examples/*.h examples/distill/*.h) Makefile

$(BUILD)/%.o: examples/%.c $(EXAMPLE_NEEDS) | $(BUILD) stb
	$(EXAMPLE_COMPILE) -DKD__KERNELS_APART $< -o $@

$(BUILD)/distill.o: examples/distill/distill.c $(EXAMPLE_NEEDS) | $(BUILD) stb
	$(EXAMPLE_COMPILE) -DKD__KERNELS_APART $< -o $@

$(BUILD)/examples_kernels.o: tests/kernels.c kd.h | $(BUILD)
	$(EXAMPLE_COMPILE) $< -o $@

# $(call at_once,programs): built by all processors
at_once = @$(MAKE) --no-print-directory -j$$(getconf _NPROCESSORS_ONLN) $(1)

demo: stb
	$(call at_once,$(BUILD)/distill $(BUILD)/classify)
	$(BUILD)/distill examples/data/fashion --train-limit 50 --effort 0.5 --seeds 8 --out $(OUT) $(DISTILL)

text: stb $(BUILD)/distill $(BUILD)/classify
	$(BUILD)/distill examples/data/banking77 --effort 0.2 --teacher-epochs 12 --seeds 5 --out $(OUT)-text $(DISTILL)

fashion: stb $(BUILD)/distill | $(BUILD)
	$(call need,/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz,dataset-fashion-mnist)
	$(BUILD)/distill /usr/share/datasets/fashion-mnist --out $(OUT)-fashion $(DISTILL)

# three students of this size that one would write by hand
FIT_BY_HAND = --beside 'conv 11 3 pad=1, batchnorm, relu, maxpool 2, conv 22 3 pad=1, batchnorm, relu, maxpool 2, conv 44 3 pad=1, batchnorm, relu, maxpool 2, dense 10' \
	--beside 'conv 16 3 pad=1, batchnorm, relu, maxpool 2, conv 28 3 pad=1, batchnorm, relu, maxpool 2, conv 36 3 pad=1, batchnorm, relu, gap, dense 10' \
	--beside 'dense 19, batchnorm, relu, dense 10'
fit: stb $(BUILD)/distill
	$(BUILD)/distill examples/data/fashion --train-limit 50 --effort 0.4 --seeds 3 --int8 --fit 16KB --fit-ram 16KB --search-minutes 1 $(FIT_BY_HAND) --out $(OUT)-fit $(DISTILL)

hinton: stb $(BUILD)/hinton
	@test -n "$(DATA)" || { echo 'say where MNIST is: make hinton DATA=<folder with its four IDX files>'; exit 1; }
	$(BUILD)/hinton $(DATA) --out $(OUT)-hinton $(HINTON)

compare: stb $(BUILD)/compare
	$(BUILD)/compare examples/data/fashion --out $(OUT)-compare $(COMPARE)

SMALL_STUDENT = examples/mcu/fashion.safetensors
SHEETS ?= examples/data/fashion/test

mcu: stb | $(BUILD)
	$(call need,/usr/bin/arm-none-eabi-gcc,gcc-arm-none-eabi)
	$(call need,/usr/lib/arm-none-eabi/include/stdio.h,libnewlib-arm-none-eabi)
	$(call need,/usr/bin/qemu-system-arm,qemu-system-arm)
	@mkdir -p $(BUILD)/mcu
	$(CC) -std=gnu99 $(CFLAGS) $(WARNINGS) examples/mcu/pack.c -o $(BUILD)/mcu/pack $(LDFLAGS) -lm
	@examples/mcu/run.sh $(or $(STUDENT),$(SMALL_STUDENT)) $(SHEETS) $(BUILD)/mcu

# the networks of the demo, if it has run
WEB_STUDENT = $(or $(STUDENT),$(wildcard $(OUT)/student.safetensors),$(SMALL_STUDENT))
WEB_TEACHER = $(or $(TEACHER),$(if $(STUDENT),,$(wildcard $(OUT)/teacher.safetensors)))
SAMPLES ?= examples/data/fashion
PAGE ?= $(OUT)/web.html

web: stb | $(BUILD)
	$(call need,/usr/bin/clang,clang)
	$(call need,/usr/bin/wasm-ld,lld)
	$(call need,/usr/lib/wasm32-wasi/libc.a,wasi-libc)
	@mkdir -p $(BUILD)/web $(dir $(PAGE))
	$(CC) -std=gnu99 $(CFLAGS) $(WARNINGS) examples/web/pack.c -o $(BUILD)/web/pack $(LDFLAGS) -lm
	@examples/web/run.sh '$(WEB_STUDENT)' '$(WEB_TEACHER)' '$(SAMPLES)' $(BUILD)/web '$(PAGE)'

sizes: | $(BUILD)
	$(call need,/usr/bin/arm-none-eabi-gcc,gcc-arm-none-eabi)
	$(call need,/usr/lib/arm-none-eabi/include/stdio.h,libnewlib-arm-none-eabi)
	$(call need,/usr/bin/qemu-system-arm,qemu-system-arm)
	@mkdir -p $(BUILD)/sizes
	$(CC) -std=gnu99 $(CFLAGS) $(WARNINGS) -DKD_NO_SIMD examples/mcu/sizes.c -o $(BUILD)/sizes/sizes $(LDFLAGS) -lm
	@examples/mcu/sizes.sh $(BUILD)/sizes

$(BUILD)/draw: examples/data/draw.c | $(BUILD) stb
	$(CC) -std=gnu99 $(CFLAGS) $(WARNINGS) $< -o $@ $(LDFLAGS)

evidence: stb $(BUILD)/distill $(BUILD)/draw
	@DATA='$(DATA)' MINUTES='$(MINUTES)' EVIDENCE='$(EVIDENCE)' PATIENT='$(PATIENT)' examples/evidence.sh $(BUILD)

# ---- tests -----------------------------------------------------------------------------------------------------

cmocka: | $(BUILD)
	$(call need,/usr/include/cmocka.h,libcmocka-dev)

$(BUILD)/test_%: tests/test_%.c kd.h $(BUILD)/kernels.o $(wildcard tests/*.h tests/golden/*.h examples/*.h) | $(BUILD)
	$(CC) -std=gnu99 $(LEVEL) $(SANITIZE) $(WARNINGS) $< $(APART) -o $@ $(LDFLAGS) -lcmocka -lm

LEVEL = -Og # compiled in half the time
APART = -DKD__KERNELS_APART $(BUILD)/kernels.o
$(BUILD)/test_kernels: APART = # looks inside
$(BUILD)/test_kernels: LEVEL = -O1

$(BUILD)/kernels.o: tests/kernels.c kd.h | $(BUILD)
	$(CC) -std=gnu99 -O1 $(SANITIZE) $(WARNINGS) -c $< -o $@

test: cmocka stb
	$(call at_once,$(TESTS) $(BUILD)/distill $(BUILD)/classify $(BUILD)/export $(BUILD)/hinton $(BUILD)/draw)
	@tests/run.sh $(BUILD)

fuzz: stb | $(BUILD)
	$(call need,/usr/bin/clang,clang)
	@tests/fuzz/run.sh fuzz $(or $(SECONDS),60)

ci: cmocka stb
	@tests/ci.sh

ci-full: cmocka stb
	@tests/ci.sh full

# ---- measuring -------------------------------------------------------------------------------------------------

bench bench-quick: | $(BUILD)
	@$(MAKE) --no-print-directory -C bench $@

# ---- the rest --------------------------------------------------------------------------------------------------

CMAKE_FILES = examples/cmake/kdConfig.cmake examples/cmake/kdConfigVersion.cmake

install:
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/lib/cmake/kd
	install -m 644 kd.h $(DESTDIR)$(PREFIX)/include/kd.h
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' '' 'Name: kd' \
		'Description: knowledge distillation in one C header' 'Version: $(VERSION)' \
		'Cflags: -I$${includedir}' 'Libs: -lm' > $(DESTDIR)$(PREFIX)/lib/pkgconfig/kd.pc
	install -m 644 $(CMAKE_FILES) $(DESTDIR)$(PREFIX)/lib/cmake/kd

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/include/kd.h $(DESTDIR)$(PREFIX)/lib/pkgconfig/kd.pc
	rm -rf $(DESTDIR)$(PREFIX)/lib/cmake/kd

format:
	clang-format --style=file -i kd.h $(wildcard $(addsuffix /*.[ch],examples examples/data examples/distill examples/mcu examples/web tests tests/compile tests/fuzz bench bench/peers))

clean:
	rm -rf $(BUILD)
