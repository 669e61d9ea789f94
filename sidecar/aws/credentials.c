// SPDX-License-Identifier: Apache-2.0
#include "aws/credentials.h"
