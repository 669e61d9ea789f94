// SPDX-License-Identifier: Apache-2.0
#include "identity/svid_store.h"
