// SPDX-License-Identifier: Apache-2.0
#include "identity/tls_stream.h"
