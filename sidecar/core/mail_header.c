// SPDX-License-Identifier: Apache-2.0
#include "core/mail_header.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define WALL_S_MAX INT64_C(253402300799) /* 9999-12-31 23:59:59 */

/* Amazon SES developer guide, "Amazon SES header fields"; lower case, in order for bsearch.  To,
 * Cc, Bcc and Received are not on it. */
// clang-format off
static const char *const singletons[] = {
    "accept-language", "acceptlanguage", "archived-at", "auto-submitted", "bounces-to", "comments",
    "content-alternative", "content-base", "content-class", "content-description",
    "content-disposition", "content-duration", "content-id", "content-language", "content-length",
    "content-location", "content-md5", "content-transfer-encoding", "content-type", "date",
    "delivered-to", "disposition-notification-options", "disposition-notification-to",
    "dkim-signature", "domainkey-signature", "errors-to", "from", "importance", "in-reply-to",
    "keywords", "list-archive", "list-help", "list-id", "list-owner", "list-post", "list-subscribe",
    "list-unsubscribe", "list-unsubscribe-post", "message-context", "message-id", "mime-version",
    "organization", "original-from", "original-message-id", "original-recipient",
    "original-subject", "precedence", "priority", "references", "reply-to", "return-path",
    "return-receipt-to", "sender", "sensitivity", "solicitation", "subject", "thread-index",
    "thread-topic", "user-agent", "vbr-info",
};
// clang-format on
_Static_assert(ARRAY_LEN(singletons) <= MAIL_HEADER_SINGLETONS_MAX, "raise the maximum");

size_t mail_header_name_len(struct str line)
{
    size_t n = 0;
    while (n < line.len && line.p[n] > 32 && line.p[n] < 127 && line.p[n] != ':')
        n++;
    size_t colon = n;
    while (colon < line.len && (line.p[colon] == ' ' || line.p[colon] == '\t'))
        colon++;
    return colon < line.len && line.p[colon] == ':' ? n : 0;
}

static int compare_name(const void *key, const void *item)
{
    const struct str *name = key;
    const char *z = *(const char *const *)item;
    for (size_t i = 0; i < name->len; i++) {
        int diff = ascii_lower(name->p[i]) - z[i]; /* z[i] may be its NUL: then they differ */
        if (diff != 0 || z[i] == '\0')
            return diff != 0 ? diff : 1;
    }
    return z[name->len] == '\0' ? 0 : -1;
}

int mail_header_singleton(struct str name)
{
    const char *const *found =
        bsearch(&name, singletons, ARRAY_LEN(singletons), sizeof singletons[0], compare_name);
    return found == NULL ? -1 : (int)(found - singletons);
}

char *mail_header_date(char *out, int64_t wall_ms)
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t wall_s = wall_ms < 0 ? 0 : wall_ms / 1000;
    time_t t = (time_t)(wall_s > WALL_S_MAX ? WALL_S_MAX : wall_s);
    struct tm tm;
    CHECK(gmtime_r(&t, &tm) != NULL);
    char text[96]; /* what seven ints could need, for the compiler's peace */
    snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d +0000", days[tm.tm_wday],
             tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    return str_copy(out, MAIL_HEADER_DATE_MAX, str_from(text));
}
