// SPDX-License-Identifier: Apache-2.0
#include "sys/stream.h"
