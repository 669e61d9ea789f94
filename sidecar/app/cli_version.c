// SPDX-License-Identifier: Apache-2.0
#include "app/cli.h"
#include "app/config_read.h"
#include "app/report.h"
#include "aws/http.h"
#include "identity/workload_api.h"
#include "ops/admin.h"

#include <argp.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <protobuf-c/protobuf-c.h>
#include <stdio.h>
#include <uv.h>

int cli_version(int argc, char **argv)
{
    static const struct argp parser = {
        NULL, NULL, NULL, "Version, commit, and the libraries that are loaded.", NULL, NULL, NULL};
    argp_parse(&parser, argc, argv, 0, NULL, NULL);
    printf("svidmail %s (commit %s)\n", report_version(), report_commit());
    printf("%s\n", OpenSSL_version(OPENSSL_VERSION));
    printf("libuv %s\n", uv_version_string());
    printf("libcurl %s\n", http_library_version());
    printf("gRPC core %s\n", workload_api_library_version());
    printf("protobuf-c %s\n", protobuf_c_version());
    printf("libmicrohttpd %s\n", admin_library_version());
    printf("libyaml %s\n", config_read_library_version());
    printf("jansson %s\n", jansson_version_str());
    return 0;
}
