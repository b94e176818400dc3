/* SPDX-License-Identifier: MIT */
/* A program whose check 42 fails: shows that a failed check is seen. */
#include "isa.h"
BEGIN
    CHECK 42, zero, 1
    PASS
