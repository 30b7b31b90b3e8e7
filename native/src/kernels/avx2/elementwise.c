#define LEVEL avx2
#include "../vector/elementwise.h"
