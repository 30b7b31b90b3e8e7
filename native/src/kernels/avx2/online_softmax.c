#define LEVEL avx2
#include "../vector/online_softmax.h"
