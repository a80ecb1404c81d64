#include "probe.h"
const struct verb balloon_verbs[] = {{NULL, NULL}};
