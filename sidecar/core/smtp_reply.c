// SPDX-License-Identifier: Apache-2.0
#include "core/smtp_reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* RFC 5321 4.2: textstring is printable ASCII (we write no tab). */
static char safe_char(char c)
{
    unsigned char u = (unsigned char)c;
    if (u < 32 || u == 127)
        return ' ';
    return u < 127 ? c : '?';
}

void smtp_reply_set(struct smtp_reply *r, int code, const char *enhanced, const char *fmt, ...)
{
    CHECK(code >= 200 && code <= 599);
    CHECK(enhanced[0] == '\0' || enhanced[0] == '0' + code / 100); /* RFC 2034 4 */
    char text[SMTP_REPLY_TEXT_MAX + 1];                            /* an argument may be r->text */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    size_t len = (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    for (size_t i = 0; i < len; i++)
        text[i] = safe_char(text[i]);
    while (len > 0 && text[len - 1] == ' ')
        len--;
    r->code = code;
    str_copy(r->enhanced, sizeof r->enhanced, str_from(enhanced));
    str_copy(r->text, sizeof r->text, (struct str){text, len});
}

bool smtp_reply_write(const struct smtp_reply *r, struct buf *out)
{
    return buf_printf(out, "%d%s%s%s%s\r\n", r->code, r->enhanced[0] == '\0' ? "" : " ",
                      r->enhanced, r->text[0] == '\0' ? "" : " ", r->text);
}
