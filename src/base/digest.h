/* SPDX-License-Identifier: MIT */
/*
 * XXH3 by its usual names, in the widest vector unit that the processor has: the plain functions of
 * a library built for all processors know SSE2 only, which takes three times as long.
 */
#ifndef BASE_DIGEST_H
#define BASE_DIGEST_H

#define XXH_STATIC_LINKING_ONLY /* the size of a state */
#include <xxhash.h>

#ifdef HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#endif
