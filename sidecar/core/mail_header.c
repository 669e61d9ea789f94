// SPDX-License-Identifier: Apache-2.0
#include "core/mail_header.h"
