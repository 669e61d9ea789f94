// SPDX-License-Identifier: Apache-2.0
#include "certs.h"

#include "base/mem.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FROM_2020_S INT64_C(1577836800)
#define TO_2049_S   INT64_C(2493072000)

struct cert_spec certs_leaf_spec(const char *uri)
{
    return (struct cert_spec){
        .name = "leaf",
        .uris = {str_from(uri)},
        .n_uris = 1,
        .path_len = -1,
        .ca = CERT_CA_FALSE,
        .key_usage = "critical,digitalSignature,keyEncipherment,keyAgreement",
        .ext_key_usage = "serverAuth,clientAuth",
        .not_before_s = FROM_2020_S,
        .not_after_s = TO_2049_S,
        .digest = "SHA256",
    };
}

struct cert_spec certs_ca_spec(const char *name)
{
    return (struct cert_spec){
        .name = name,
        .path_len = -1,
        .ca = CERT_CA_TRUE,
        .key_usage = "critical,keyCertSign,cRLSign",
        .not_before_s = FROM_2020_S,
        .not_after_s = TO_2049_S,
        .digest = "SHA256",
    };
}

static void add_san(X509 *x, const struct cert_spec *spec)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    for (size_t i = 0; i < spec->n_uris; i++) {
        GENERAL_NAME *name = GENERAL_NAME_new();
        ASN1_IA5STRING *uri = ASN1_IA5STRING_new();
        CHECK(ASN1_STRING_set(uri, spec->uris[i].p, (int)spec->uris[i].len) == 1);
        GENERAL_NAME_set0_value(name, GEN_URI, uri);
        CHECK(sk_GENERAL_NAME_push(names, name) > 0);
    }
    for (int i = 0; i < spec->n_dns; i++) {
        char text[32];
        snprintf(text, sizeof text, "n%d.test", i);
        GENERAL_NAME *name = GENERAL_NAME_new();
        ASN1_IA5STRING *dns = ASN1_IA5STRING_new();
        CHECK(ASN1_STRING_set(dns, text, -1) == 1);
        GENERAL_NAME_set0_value(name, GEN_DNS, dns);
        CHECK(sk_GENERAL_NAME_push(names, name) > 0);
    }
    for (int i = 0; i < (spec->is_san_repeated ? 2 : 1); i++)
        CHECK(X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, X509V3_ADD_APPEND) == 1);
    GENERAL_NAMES_free(names);
}

static void add_raw(X509 *x, const char *oid, int is_critical, struct str content)
{
    ASN1_OBJECT *object = OBJ_txt2obj(oid, 0);
    ASN1_OCTET_STRING *octets = ASN1_OCTET_STRING_new();
    CHECK(object != NULL);
    CHECK(ASN1_OCTET_STRING_set(octets, (const unsigned char *)content.p, (int)content.len) == 1);
    X509_EXTENSION *ext = X509_EXTENSION_create_by_OBJ(NULL, object, is_critical, octets);
    CHECK(ext != NULL && X509_add_ext(x, ext, -1) == 1);
    X509_EXTENSION_free(ext);
    ASN1_OCTET_STRING_free(octets);
    ASN1_OBJECT_free(object);
}

static void add_conf(X509 *x, X509 *issuer, int nid, const char *value)
{
    if (value == NULL)
        return;
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    CHECK(ext != NULL && X509_add_ext(x, ext, -1) == 1);
    X509_EXTENSION_free(ext);
}

static void add_extensions(X509 *x, X509 *issuer, const struct cert_spec *spec)
{
    char constraints[64];
    snprintf(constraints, sizeof constraints, "critical,CA:TRUE,pathlen:%d", spec->path_len);
    if (spec->ca == CERT_CA_FALSE)
        add_conf(x, issuer, NID_basic_constraints, "critical,CA:FALSE");
    else if (spec->ca == CERT_CA_TRUE)
        add_conf(x, issuer, NID_basic_constraints,
                 spec->path_len < 0 ? "critical,CA:TRUE" : constraints);
    add_conf(x, issuer, NID_key_usage, spec->key_usage);
    add_conf(x, issuer, NID_ext_key_usage, spec->ext_key_usage);
    add_conf(x, issuer, NID_name_constraints, spec->name_constraints);
    if (spec->raw_san.p != NULL)
        add_raw(x, "2.5.29.17", 0, spec->raw_san);
    else if (spec->n_uris > 0 || spec->n_dns > 0)
        add_san(x, spec);
    if (spec->extra_oid != NULL)
        add_raw(x, spec->extra_oid, spec->is_extra_critical, spec->extra);
    if (spec->has_no_key_ids)
        return;
    add_conf(x, issuer, NID_subject_key_identifier, "hash");
    if (X509_get0_subject_key_id(issuer) != NULL)
        add_conf(x, issuer, NID_authority_key_identifier, "keyid:always");
}

/* As a peer would get it: what OpenSSL has cached while building is forgotten. */
static X509 *reread(X509 *built)
{
    unsigned char *der = NULL;
    int len = i2d_X509(built, &der);
    CHECK(len > 0);
    const unsigned char *at = der;
    X509 *x = d2i_X509(NULL, &at, len);
    CHECK(x != NULL);
    OPENSSL_free(der);
    X509_free(built);
    return x;
}

struct cert certs_issue(const struct cert_spec *spec, const struct cert *issuer)
{
    static long serial;
    struct cert c = {X509_new(), spec->key};
    if (c.key == NULL)
        c.key = EVP_EC_gen("P-256");
    else
        EVP_PKEY_up_ref(c.key);
    CHECK(c.x509 != NULL && c.key != NULL);
    X509 *signer = issuer != NULL ? issuer->x509 : c.x509;
    CHECK(X509_set_version(c.x509, X509_VERSION_3) == 1);
    CHECK(ASN1_INTEGER_set(X509_get_serialNumber(c.x509), ++serial) == 1);
    CHECK(ASN1_TIME_set(X509_getm_notBefore(c.x509), (time_t)spec->not_before_s) != NULL);
    CHECK(ASN1_TIME_set(X509_getm_notAfter(c.x509), (time_t)spec->not_after_s) != NULL);
    if (spec->name != NULL)
        CHECK(X509_NAME_add_entry_by_NID(X509_get_subject_name(c.x509), NID_commonName,
                                         MBSTRING_ASC, (const unsigned char *)spec->name, -1, -1,
                                         0) == 1);
    CHECK(X509_set_issuer_name(c.x509, X509_get_subject_name(signer)) == 1);
    CHECK(X509_set_pubkey(c.x509, c.key) == 1);
    add_extensions(c.x509, signer, spec);
    const EVP_MD *digest = EVP_get_digestbyname(spec->digest);
    CHECK(X509_sign(c.x509, issuer != NULL ? issuer->key : c.key, digest) > 0);
    c.x509 = reread(c.x509);
    ERR_clear_error();
    return c;
}

struct cert certs_leaf(const char *uri, const struct cert *issuer)
{
    struct cert_spec spec = certs_leaf_spec(uri);
    return certs_issue(&spec, issuer);
}

struct cert certs_ca(const char *name)
{
    struct cert_spec spec = certs_ca_spec(name);
    return certs_issue(&spec, NULL);
}

void certs_release(struct cert *c)
{
    X509_free(c->x509);
    EVP_PKEY_free(c->key);
    memset(c, 0, sizeof *c);
}

EVP_PKEY *certs_rsa_key(unsigned bits)
{
    EVP_PKEY *key = EVP_RSA_gen(bits);
    CHECK(key != NULL);
    return key;
}

STACK_OF(X509) *certs_stack(int n, ...)
{
    STACK_OF(X509) *s = sk_X509_new_null();
    va_list ap;
    va_start(ap, n);
    for (int i = 0; i < n; i++)
        CHECK(X509_add_cert(s, va_arg(ap, X509 *), X509_ADD_FLAG_UP_REF) == 1);
    va_end(ap);
    return s;
}

void certs_stack_free(STACK_OF(X509) *s)
{
    sk_X509_pop_free(s, X509_free);
}

struct str certs_der(int n, ...)
{
    unsigned char *bytes = NULL;
    size_t len = 0;
    va_list ap;
    va_start(ap, n);
    for (int i = 0; i < n; i++) {
        X509 *x = va_arg(ap, X509 *);
        int more = i2d_X509(x, NULL);
        CHECK(more > 0);
        bytes = xrealloc(bytes, len + (size_t)more);
        unsigned char *at = bytes + len;
        CHECK(i2d_X509(x, &at) == more);
        len += (size_t)more;
    }
    va_end(ap);
    return (struct str){(const char *)bytes, len};
}

/* OpenSSL's own allocation -> one that free() ends. */
static struct str take(unsigned char *der, int len)
{
    CHECK(der != NULL && len > 0);
    char *copy = str_dup((struct str){(const char *)der, (size_t)len});
    OPENSSL_free(der);
    return (struct str){copy, (size_t)len};
}

struct str certs_pkcs8(EVP_PKEY *key)
{
    unsigned char *der = NULL;
    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);
    CHECK(info != NULL);
    int len = i2d_PKCS8_PRIV_KEY_INFO(info, &der);
    PKCS8_PRIV_KEY_INFO_free(info);
    return take(der, len);
}

struct str certs_pkcs8_encrypted(EVP_PKEY *key, const char *password)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    CHECK(i2d_PKCS8PrivateKey_bio(bio, key, EVP_aes_128_cbc(), password, (int)strlen(password),
                                  NULL, NULL) == 1);
    long len = BIO_get_mem_data(bio, &data);
    char *copy = str_dup((struct str){data, (size_t)len});
    BIO_free(bio);
    return (struct str){copy, (size_t)len};
}

struct str certs_traditional_key(EVP_PKEY *key)
{
    unsigned char *der = NULL;
    int len = i2d_PrivateKey(key, &der);
    return take(der, len);
}
