// SPDX-License-Identifier: Apache-2.0
#include "core/spiffe_id.h"
