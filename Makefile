# SPDX-License-Identifier: Apache-2.0
#
#   make demo    install what is missing, build the program, run the induction-heads experiment
#   make test    install what is missing, build everything, run every test
#   make         build everything
#   make format  lay out the sources
#   make clean   remove what was built
#
# PRESET=sanitize builds and tests with AddressSanitizer and UndefinedBehaviorSanitizer instead.

PRESET := release

# One job a processor, as far as memory goes: a compile job takes up to 1.5 GB.
JOBS := $(shell awk -v cores=$$(nproc) '/^MemAvailable:/ { jobs = int($$2 / 1500000) } \
  END { if (jobs > cores) jobs = cores; print jobs < 1 ? 1 : jobs }' /proc/meminfo)

.PHONY: build demo test setup configure format clean

build: configure
	cmake --build --preset $(PRESET) -j $(JOBS)

demo: configure
	cmake --build --preset $(PRESET) -j $(JOBS) --target elapse
	build/elapse experiment induction --quick --out out/induction

# Threads of tests that run side by side sleep while they wait (CMakePresets.json): they would spin on
# each other's processor.
test: build
	ctest --preset $(PRESET) -j $(JOBS)

configure: setup
	cmake --preset $(PRESET)

setup:
	tools/setup.sh

format:
	tools/format.sh

clean:
	rm -rf build build-sanitize out
