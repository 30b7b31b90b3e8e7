#include "superblocks.h"

SUPERBLOCK_KERNELS(q5_k, FIVE_BITS)
