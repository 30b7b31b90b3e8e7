#include "superblocks.h"

SUPERBLOCK_KERNELS(q4_k, NIBBLES)
