/* Labels on hot loops, by which native/tools/kernel_cost.py counts the instructions and models the cycles of a block of
 * 32 weights x 1 row x 1 token. They are assembler comments under -DEK_COST and nothing otherwise.
 *
 *     for (size_t k = 0; k < columns; k += 32) {
 *       EK_COST_BEGIN(gemv, EK_TYPE_q4_0, 8)    first in the body
 *       ...
 *     }
 *     EK_COST_END(gemv, EK_TYPE_q4_0, 8)        directly after the loop
 *
 * operation is a word: gemv, gemm, scores, values or online_softmax. type is an ek_type and blocks the blocks of one
 * pass; both may be arguments of an inlined function that are constant where it is inlined. blocks 0 is a loop that is
 * not counted (a tail). A region is the compiled loop that BEGIN is in, its control included; the regions of one
 * function are added up, so code run once in a superblock is the region of the outer loop with the blocks of that. A
 * loop inside a region is not part of it and needs a label of its own. BEGIN and END in one straight line are a region
 * too. For scores and values a block is a position x query head x 32 dimensions, for online_softmax one score. */
#ifndef EK_COST_H
#define EK_COST_H

#ifdef EK_COST
#define EK_COST_BEGIN(operation, type, blocks) EK_COST_MARK("BEGIN", operation, type, blocks)
#define EK_COST_END(operation, type, blocks) EK_COST_MARK("END", operation, type, blocks)
#define EK_COST_MARK(edge, operation, type, blocks)                                                                    \
  __asm__ volatile("# LLVM-MCA-" edge " " #operation "/%c0/%c1" : : "i"(type), "i"(blocks))
#else
#define EK_COST_BEGIN(operation, type, blocks) ((void)0)
#define EK_COST_END(operation, type, blocks) ((void)0)
#endif

#endif
