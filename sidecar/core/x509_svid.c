// SPDX-License-Identifier: Apache-2.0
#include "core/x509_svid.h"
