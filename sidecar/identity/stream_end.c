// SPDX-License-Identifier: Apache-2.0
#include "identity/stream_end.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* The sentence is "<target> <seen> (<detail>): <means>"; with detail_first, where our own check
 * knows the reason, "<target>: <detail>; <means>".  Field names in capitals are Envoy's response
 * flags. */
struct cause_words {
    const char *name;
    enum err_code code;
    bool detail_first;
    const char *seen, *means;
};

// clang-format off
static const struct cause_words causes[END_CAUSE_COUNT] = {
    [END_NONE] = { "none", ERR_NONE, false, "is open", "nothing went wrong" },
    [END_CLEAN] = { "clean", ERR_UNAVAIL, false, "closed the stream (close_notify)",
        "our SPIFFE ID is not allowed (gateway log: rbac_access_denied_matched_policy), or the gateway "
        "cannot reach AWS (UF, UH with upstream_transport_failure_reason), or it was idle too long" },
    [END_TRUNCATED] = { "truncated", ERR_UNAVAIL, false, "cut the stream without close_notify",
        "our SPIFFE ID is not allowed (gateway log: rbac_access_denied_matched_policy), or the gateway "
        "cannot reach AWS (UF, UH), was restarted or drained" },
    [END_RESET] = { "reset", ERR_UNAVAIL, false, "reset the stream",
        "the gateway crashed, was killed or drained (its log: DC, UC, or nothing), or something on the way "
        "dropped the connection" },
    [END_NAME] = { "name", ERR_UNAVAIL, false, "does not resolve",
        "the gateway's Service is missing or misspelt in gateway.host, or cluster DNS is down; the "
        "gateway has seen nothing" },
    [END_REFUSED] = { "refused", ERR_UNAVAIL, false, "refused the connection",
        "no gateway pod is ready behind the Service, or the port is wrong; the gateway has seen nothing" },
    [END_CONNECT] = { "connect", ERR_UNAVAIL, false, "cannot be reached",
        "no route, a NetworkPolicy, or no address of its kind here; the gateway has seen nothing" },
    [END_CONNECT_TIMEOUT] = { "connect_timeout", ERR_TIMEOUT, false, "did not accept in time",
        "a NetworkPolicy drops the packets, or the gateway is overloaded; its log has nothing" },
    [END_HELLO_RESET] = { "hello_reset", ERR_UNAVAIL, false, "closed during our ClientHello",
        "no server on this port takes our SNI (gateway log: NR filter_chain_not_found and the SNI it saw), "
        "or istio-proxy captured the port (exclude it; UH BlackHoleCluster in istio-proxy's log)" },
    [END_HANDSHAKE_EOF] = { "handshake_eof", ERR_UNAVAIL, false, "closed within the handshake",
        "the gateway cannot resolve or reach the AWS host (its log: UH, UF), istio-proxy captured the port, "
        "or it was restarted" },
    [END_HANDSHAKE_TIMEOUT] = { "handshake_timeout", ERR_TIMEOUT, false, "accepted, then said nothing",
        "the gateway is overloaded or has no certificate from its SPIRE agent yet (its log: "
        "Secret is not supplied by SDS), or the port is not the gateway's" },
    [END_NOT_TLS] = { "not_tls", ERR_UNAVAIL, false, "answered with something that is not TLS 1.3",
        "a plain HTTP port, istio-proxy wrapping our TLS again (exclude the port from capture), or a "
        "gateway restricted to TLS 1.2; gateway log: codec_error or http1" },
    [END_ALERT] = { "alert", ERR_UNAVAIL, false, "sent a TLS alert", "see the gateway's log" },
    [END_PEER_NOT_SVID] = { "peer_not_svid", ERR_DENIED, true, "showed a certificate that is no X.509-SVID",
        "the gateway must use its SPIFFE identity (tls mode ISTIO_MUTUAL); its own log shows only our alert" },
    [END_PEER_UNTRUSTED] = { "peer_untrusted", ERR_DENIED, true, "showed a chain we do not trust",
        "compare the gateway's CA with our bundle (svidmail status); its own log shows only our alert" },
    [END_PEER_IDENTITY] = { "peer_identity", ERR_DENIED, true, "is not an expected gateway",
        "put its ID into gateway.spiffe_ids if that is the gateway" },
    [END_NO_IDENTITY] = { "no_identity", ERR_UNAVAIL, true, "was not dialled: we have no SVID",
        "no identity to show to the gateway, so it was not dialled" },
    [END_IDENTITY_GONE] = { "identity_gone", ERR_UNAVAIL, true, "was cut off: an identity is gone",
        "the stream was cut by us because an identity it rests on was taken back or expired" },
    [END_ROTATED] = { "rotated", ERR_CANCELED, false, "was idle and closed by us",
        "identities are renewed before they end" },
    [END_IDLE_TIMEOUT] = { "idle_timeout", ERR_TIMEOUT, false, "sent nothing for too long",
        "closed by us; the gateway's log says DC if it still lived" },
    [END_CANCELED] = { "canceled", ERR_CANCELED, false, "was closed by us", "no longer needed" },
};

/* RFC 8446 section 6.  means NULL: the name says all there is. */
static const struct alert_words {
    int number;
    enum err_code code;
    const char *name, *means;
} alerts[] = {
    { 0, ERR_UNAVAIL, "close_notify", NULL },
    { 10, ERR_UNAVAIL, "unexpected_message", NULL },
    { 20, ERR_UNAVAIL, "bad_record_mac", "bytes were changed on the way" },
    { 22, ERR_UNAVAIL, "record_overflow", NULL },
    { 40, ERR_UNAVAIL, "handshake_failure", "no cipher or key exchange group in common (a gateway under "
      "COMPLIANCE_POLICY pqc needs OpenSSL 3.5 here)" },
    { 42, ERR_DENIED, "bad_certificate", "the gateway could not read our certificate or finds its signature "
      "wrong; its counter ssl.fail_verify_error" },
    { 43, ERR_DENIED, "unsupported_certificate", "our certificate's key type or extended key usage is not "
      "accepted; the gateway's counter ssl.fail_verify_error" },
    { 44, ERR_DENIED, "certificate_revoked", "our certificate is on the gateway's revocation list; its "
      "counter ssl.fail_verify_error" },
    { 45, ERR_DENIED, "certificate_expired", "our certificate has expired by the gateway's clock: the SPIRE "
      "agent no longer renews it, or the clocks differ; its counter ssl.fail_verify_error" },
    { 46, ERR_DENIED, "certificate_unknown", "the gateway does not trust our certificate's CA (other trust "
      "domain, or its bundle is old), or finds it expired; no access log line, its counter ssl.fail_verify_error" },
    { 47, ERR_UNAVAIL, "illegal_parameter", NULL },
    { 48, ERR_DENIED, "unknown_ca", "our certificate's CA is not in the gateway's bundle (other trust domain, "
      "or its bundle is old); its counter ssl.fail_verify_error" },
    { 49, ERR_DENIED, "access_denied", "our certificate is valid and refused by the gateway's own rule; its "
      "counter ssl.fail_verify_san" },
    { 50, ERR_UNAVAIL, "decode_error", NULL },
    { 51, ERR_UNAVAIL, "decrypt_error", "the gateway could not check our handshake signature" },
    { 70, ERR_UNAVAIL, "protocol_version", "the gateway has no TLS 1.3 (COMPLIANCE_POLICY fips-140-2), which "
      "svidmail needs" },
    { 71, ERR_UNAVAIL, "insufficient_security", "the gateway wants stronger ciphers or groups" },
    { 80, ERR_UNAVAIL, "internal_error", "the gateway failed by itself; its log at level connection:debug" },
    { 86, ERR_UNAVAIL, "inappropriate_fallback", NULL },
    { 90, ERR_UNAVAIL, "user_canceled", NULL },
    { 109, ERR_UNAVAIL, "missing_extension", NULL },
    { 110, ERR_UNAVAIL, "unsupported_extension", NULL },
    { 112, ERR_UNAVAIL, "unrecognized_name", "no server there takes our SNI; gateway log: NR "
      "filter_chain_not_found" },
    { 113, ERR_UNAVAIL, "bad_certificate_status_response", NULL },
    { 115, ERR_UNAVAIL, "unknown_psk_identity", NULL },
    { 116, ERR_DENIED, "certificate_required", "the gateway got no certificate from us; no access log line, "
      "its counter ssl.fail_verify_no_cert" },
    { 120, ERR_UNAVAIL, "no_application_protocol", "the gateway does not offer our ALPN" },
};
// clang-format on

static void set_alert(struct stream_end *end, const char *target, const char *detail);

const char *stream_end_name(enum stream_end_cause cause)
{
    CHECK((unsigned)cause < END_CAUSE_COUNT);
    return causes[cause].name;
}

void stream_end_set(struct stream_end *end, enum stream_end_cause cause, const char *target,
                    const char *detail)
{
    CHECK((unsigned)cause < END_CAUSE_COUNT);
    end->cause = cause;
    if (detail == NULL)
        detail = "";
    const struct cause_words *w = &causes[cause];
    if (cause == END_NONE)
        memset(&end->err, 0, sizeof end->err);
    else if (cause == END_ALERT)
        set_alert(end, target, detail);
    else if (detail[0] == '\0')
        err_set(&end->err, w->code, 0, "%s %s: %s", target, w->seen, w->means);
    else if (w->detail_first)
        err_set(&end->err, w->code, 0, "%s: %s; %s", target, detail, w->means);
    else
        err_set(&end->err, w->code, 0, "%s %s (%s): %s", target, w->seen, detail, w->means);
}

static const struct alert_words *find_alert(int number)
{
    for (size_t i = 0; i < ARRAY_LEN(alerts); i++)
        if (alerts[i].number == number)
            return &alerts[i];
    return NULL;
}

/* TLS 1.3: the client's side of the handshake is over before the gateway has judged our
 * certificate, so the alert often comes on the first read of an open stream. */
static void set_alert(struct stream_end *end, const char *target, const char *detail)
{
    const struct alert_words *a = find_alert(end->alert);
    err_set(&end->err, a != NULL ? a->code : ERR_UNAVAIL, 0, "%s sent TLS alert %d %s%s%s%s: %s",
            target, end->alert, a != NULL ? a->name : "(no name known)",
            detail[0] != '\0' ? " (" : "", detail, detail[0] != '\0' ? ")" : "",
            a != NULL && a->means != NULL ? a->means
                                          : "the gateway's log at level connection:debug says why");
}
