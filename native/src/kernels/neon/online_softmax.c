#define LEVEL neon
#include "../vector/online_softmax.h"
