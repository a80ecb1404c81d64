#include "probe.h"
const struct verb blk_verbs[] = {{NULL, NULL}};
