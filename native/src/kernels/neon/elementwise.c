#define LEVEL neon
#include "../vector/elementwise.h"
