#define LEVEL avx512vnni
#include "../vector/elementwise.h"
