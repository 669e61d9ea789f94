// SPDX-License-Identifier: Apache-2.0
/* stream_end: why an mTLS stream to the gateway ended or never came to be: one cause per signature
 * that can be told apart on the wire, with the words for reply, log and doctor.  Layer: identity.
 */
#ifndef SVIDMAIL_IDENTITY_STREAM_END_H
#define SVIDMAIL_IDENTITY_STREAM_END_H
#include "base/err.h"

enum stream_end_cause {
    END_NONE = 0,  /* still open */
    END_CLEAN,     /* close_notify */
    END_TRUNCATED, /* EOF without close_notify after the handshake */
    END_RESET,     /* ECONNRESET after the handshake */
    END_NAME,      /* the gateway's name does not resolve */
    END_REFUSED,   /* ECONNREFUSED: no gateway there */
    END_CONNECT,   /* other connect errors */
    END_CONNECT_TIMEOUT,
    END_HELLO_RESET,   /* reset or EOF during our ClientHello: no filter chain for this SNI */
    END_HANDSHAKE_EOF, /* EOF later in the handshake */
    END_HANDSHAKE_TIMEOUT,
    END_NOT_TLS,       /* the answer was no TLS (a plain HTTP 400: double capture by istio-proxy) */
    END_ALERT,         /* a TLS alert from the gateway; number in .alert */
    END_PEER_NOT_SVID, /* the gateway's certificate is no X.509-SVID */
    END_PEER_UNTRUSTED, /* no bundle for its trust domain, or the chain does not verify */
    END_PEER_IDENTITY,  /* a valid SVID, but not one of gateway.spiffe_ids */
    END_NO_IDENTITY,    /* we have no usable SVID ourselves */
    END_IDENTITY_GONE,  /* our SVID or the peer's bundle was redacted, revoked or expired: cut by us
                         */
    END_ROTATED,        /* closed by us, idle: a newer SVID, or a certificate that ends soon */
    END_IDLE_TIMEOUT,
    END_CANCELED,
    END_CAUSE_COUNT
};

struct stream_end {
    enum stream_end_cause cause;
    int alert;     /* END_ALERT: RFC 8446 section 6 number */
    bool was_open; /* the handshake had completed */
    struct err
        err; /* full text: what was seen, candidate causes, where the gateway logs the reason */
};

/* "clean", "hello_reset", ...: for metrics and logs. */
const char *stream_end_name(enum stream_end_cause cause);
/* Fill end->err.msg from the cause (one sentence: what was seen; candidates; which gateway log
 * field decides). detail may be "". */
void stream_end_set(struct stream_end *end, enum stream_end_cause cause, const char *target,
                    const char *detail);

#endif
