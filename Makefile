# SPDX-License-Identifier: MIT
# A thin front for meson and scripts/. `make help` lists what there is.

# SAN=address,undefined or SAN=thread builds and tests with sanitizers, in a folder of its own.
SAN ?=
BUILD ?= $(if $(findstring thread,$(SAN)),build-tsan,$(if $(SAN),build-asan,build))
MESON_ARGS := $(if $(SAN),-Db_sanitize=$(SAN) -Db_lundef=false)

.PHONY: help demo check lab lab-shell lab-check fuzz bench build setup format clean
.DEFAULT_GOAL := help

help:
	@echo 'make build    set up the machine and build into $(BUILD)/'
	@echo 'make demo     move a running Debian guest between two processes, back and forth; MACHINE=pc'
	@echo 'make check    static checks, unit and system tests, the laboratory; SAN=address,undefined or SAN=thread'
	@echo 'make lab      build the laboratory, machines in which KVM works; lab-shell, lab-check; LAB=long'
	@echo 'make fuzz     list the fuzz targets; FUZZ=NAME TIME=SECONDS runs one'
	@echo 'make bench    measurements beside QEMU and iperf3; never part of the tests'
	@echo 'make format   put all C files through clang-format'
	@echo 'make clean    remove the build folders (the cache of guest parts stays)'

# The work of setting up and building, kept quiet unless it goes wrong.
prepare = scripts/setup --for $(1) && scripts/build $(BUILD) $(MESON_ARGS)

setup:
	@scripts/setup --for check

build:
	@$(call prepare,demo)

# virt runs everywhere; pc on a KVM that runs stock kernels, and in the laboratory where there is none.
MACHINE ?= virt
demo:
	@$(call prepare,$(if $(filter pc,$(MACHINE)),demo-pc,demo))
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/demo --machine $(MACHINE) $(DEMO_ARGS)

check:
	@$(call prepare,check)
	@scripts/run-checks --build $(BUILD)

lab:
	@$(call prepare,lab)
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/lab image

lab-shell:
	@$(call prepare,lab)
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/lab shell

lab-check:
	@$(call prepare,lab)
	@scripts/run-checks --build $(BUILD) --only lab

FUZZ ?=
TIME ?= 60
fuzz:
	@scripts/fuzz $(if $(FUZZ),$(FUZZ) $(TIME))

bench: MESON_ARGS += --buildtype=release -Db_ndebug=false
bench: BUILD = build-bench
bench:
	@$(call prepare,bench)
	@GODWIT_BUILD=$(abspath $(BUILD)) bench/run $(BENCH_ARGS)

format:
	@scripts/check-format --fix

clean:
	@rm -rf build build-asan build-tsan build-bench build-fuzz
