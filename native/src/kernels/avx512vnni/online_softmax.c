#define LEVEL avx512vnni
#include "../vector/online_softmax.h"
