// SPDX-License-Identifier: Apache-2.0
#include "app/redact.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_MAX (MAIL_PATH_MAX + 16)

void redact_address(enum config_recipients how, const struct mail_path *address, char *out,
                    size_t cap)
{
    struct str domain = mail_path_domain(address);
    if (how == CONFIG_RECIPIENTS_FULL) {
        str_copy(out, cap, mail_path_str(address));
    } else if (how == CONFIG_RECIPIENTS_OFF) {
        snprintf(out, cap, "***@%.*s", (int)domain.len, domain.p);
    } else {
        unsigned char d[EVP_MAX_MD_SIZE];
        CHECK(EVP_Digest(address->text, address->len, d, NULL, EVP_sha256(), NULL) == 1);
        snprintf(out, cap, "%02x%02x%02x%02x%02x%02x@%.*s", d[0], d[1], d[2], d[3], d[4], d[5],
                 (int)domain.len, domain.p);
    }
}

/* What joins words in an address.  The other characters of a local part stand in others' texts
 * before one as well ("identity/al@shop.example", "to=al@shop.example"): rather too much is hidden.
 */
static bool is_of_local_part(char c)
{
    return isalnum((unsigned char)c) || (c != '\0' && strchr("+-._", c) != NULL);
}

/* A full stop may end a sentence. */
static bool ends_domain(struct str rest)
{
    if (rest.len > 0 && rest.p[0] == '.')
        rest = str_sub(rest, 1, rest.len);
    return rest.len == 0 || (!isalnum((unsigned char)rest.p[0]) && rest.p[0] != '-');
}

/* Where the text was cut amid an address, its beginning is one too. */
static bool begins_with(struct str text, const struct mail_path *address)
{
    struct str whole = mail_path_str(address);
    if (text.len < whole.len)
        return text.len > 1 && str_starts_with_nocase(whole, text);
    return whole.len > 0 && str_starts_with_nocase(text, whole) &&
           ends_domain(str_sub(text, whole.len, text.len));
}

/* The mail's address that the text begins with; NULL: none. */
static const struct mail_path *find_address(const struct mail *m, struct str text)
{
    for (size_t i = 0; i < m->n_recipients; i++)
        if (begins_with(text, &m->recipients[i]))
            return &m->recipients[i];
    return begins_with(text, &m->from) ? &m->from : NULL;
}

void redact_text(enum config_recipients how, const struct mail *m, struct str text, char *out,
                 size_t cap)
{
    size_t at = 0;
    bool is_inside = false; /* of a local part, so that none begins here */
    CHECK(cap > 0);
    while (text.len > 0 && at + 1 < cap) {
        const struct mail_path *address = is_inside ? NULL : find_address(m, text);
        is_inside = is_of_local_part(text.p[0]);
        if (address == NULL) {
            out[at++] = text.p[0];
            text = str_sub(text, 1, text.len);
            continue;
        }
        char shown[SHOWN_MAX];
        redact_address(how, address, shown, sizeof shown);
        str_copy(out + at, cap - at, str_from(shown));
        at += strlen(out + at);
        text = str_sub(text, address->len, text.len);
    }
    out[at] = '\0';
}
