#include "superblocks.h"

SUPERBLOCK_KERNELS(q6_k, SIX_BITS)
