#!/bin/sh
# Fetches KANN and builds it with OpenBLAS for bench, into build/peers. KANN=url takes it from elsewhere.
set -e
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$here/../../build/peers"
cd "$here/../../build/peers"
test -d kann || git clone --quiet --depth 1 "${KANN:-https://github.com/attractivechaos/kann}" kann
${CC:-cc} -O2 -fPIC -shared -DHAVE_CBLAS -DHAVE_PTHREAD -Ikann "$here/kann.c" kann/kann.c kann/kautodiff.c \
	-o libkannbench.so -lopenblas -lpthread -lm
