// SPDX-License-Identifier: Apache-2.0
#include "core/http_date.h"

#include <time.h>

bool http_date_parse(const char *date, int64_t *out_ms)
{
    struct tm tm = {0};
    const char *rest = strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    if (rest == NULL || *rest != '\0' || tm.tm_year < 2020 - 1900 || tm.tm_year > 2099 - 1900)
        return false;
    *out_ms = (int64_t)timegm(&tm) * 1000;
    return true;
}
