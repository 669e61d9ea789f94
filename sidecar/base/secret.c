// SPDX-License-Identifier: Apache-2.0
#include "base/secret.h"

#include <stdlib.h>
#include <string.h>

void secret_wipe(void *p, size_t len)
{
    explicit_bzero(p, len);
}

char *secret_dup(struct str s)
{
    return str_dup(s);
}

void secret_free(char **z)
{
    if (*z == NULL)
        return;
    secret_wipe(*z, strlen(*z));
    free(*z);
    *z = NULL;
}
