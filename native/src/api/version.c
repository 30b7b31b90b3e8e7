#include "edgekit.h"

uint32_t ek_version(void) { return (uint32_t)EK_VERSION_MAJOR << 16 | EK_VERSION_MINOR; }
