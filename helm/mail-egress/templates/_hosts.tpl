{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{/* The domains of a region's hosts: {"usual": …, "dual": …}.  As svidmail derives them, and as AWS's SDKs do. */}}
{{- define "mail-egress.domains" -}}
{{- if hasPrefix "cn-" . -}}
{"usual": "amazonaws.com.cn", "dual": "api.amazonwebservices.com.cn"}
{{- else if hasPrefix "eusc-" . -}}
{"usual": "amazonaws.eu", "dual": "api.amazonwebservices.eu"}
{{- else -}}
{"usual": "amazonaws.com", "dual": "api.aws"}
{{- end -}}
{{- end }}

{{/*
The AWS hosts: {HOST: {VIA: PORT}}, VIA being api, end_to_end or smtp: by which port of the gateway the host is
reached; PORT the host's own.  Credential calls (STS, Roles Anywhere) are never opened by api: their answers hold
secret keys, which the gateway must not see.
*/}}
{{- define "mail-egress.hosts" -}}
{{- $values := .Values }}
{{- $hosts := dict }}
{{- range $region := .Values.regions }}
  {{- $domains := include "mail-egress.domains" $region | fromJson }}
  {{- $suffixes := list "" }}
  {{- if $values.endpoints.fips }}{{ $suffixes = append $suffixes "-fips" }}{{ end }}
  {{- range $suffix := $suffixes }}
    {{- $kinds := list $domains.usual }}
    {{- if $values.endpoints.dualStack }}{{ $kinds = append $kinds $domains.dual }}{{ end }}
    {{- range $domain := $kinds }}
      {{- $mail := dict "api" 443 }}
      {{- if $values.endToEndMail.enabled }}{{ $_ := set $mail "end_to_end" 443 }}{{ end }}
      {{- $_ := set $hosts (printf "email%s.%s.%s" $suffix $region $domain) $mail }}
      {{- $_ := set $hosts (printf "sts%s.%s.%s" $suffix $region $domain) (dict "end_to_end" 443) }}
      {{- if $values.rolesAnywhere.enabled }}
        {{- $_ := set $hosts (printf "rolesanywhere%s.%s.%s" $suffix $region $domain) (dict "end_to_end" 443) }}
      {{- end }}
    {{- end }}
    {{- if $values.smtp.enabled }}
      {{- $_ := set $hosts (printf "email-smtp%s.%s.%s" $suffix $region $domains.usual) (dict "smtp" 465) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range .Values.extraHosts }}
  {{- $ports := get $hosts .host | default dict }}
  {{- $_ := set $ports .via (.port | default (eq .via "smtp" | ternary 465 443) | int) }}
  {{- $_ := set $hosts .host $ports }}
{{- end }}
{{- $hosts | toJson }}
{{- end }}

{{/* The gateway's ports that are in use: {VIA: PORT}. */}}
{{- define "mail-egress.ports" -}}
{{- $used := dict }}
{{- range $host, $ports := include "mail-egress.hosts" . | fromJson }}
  {{- range $via, $_ := $ports }}{{ $_ := set $used $via (index $.Values.gateway.ports $via | int) }}{{ end }}
{{- end }}
{{- $used | toJson }}
{{- end }}

{{/* Who may send, as a policy writes identities: no scheme, exact. */}}
{{- define "mail-egress.principals" -}}
{{- $principals := list }}
{{- range .Values.clients }}
  {{- $principals = append $principals (printf "%s/ns/%s/sa/%s/svidmail" $.Values.trustDomain .namespace .serviceAccount) }}
{{- end }}
{{- concat $principals .Values.extraPrincipals | toJson }}
{{- end }}

{{- define "mail-egress.clientNamespaces" -}}
{{- $namespaces := list }}
{{- range .Values.clients }}{{ $namespaces = append $namespaces .namespace }}{{ end }}
{{- $namespaces | uniq | sortAlpha | toJson }}
{{- end }}

{{/*
What a gateway tells the next hop about the pod, its identity (certificate and all), the mesh and the trace.  AWS needs
none of it.  A signature covers the headers it names only, so taking these away breaks none.
*/}}
{{- define "mail-egress.removedHeaders" -}}
- x-forwarded-client-cert
- x-forwarded-for
- x-forwarded-host
- x-forwarded-port
- x-forwarded-proto
- forwarded
- via
- x-real-ip
- x-request-id
- x-client-trace-id
- x-envoy-attempt-count
- x-envoy-decorator-operation
- x-envoy-downstream-service-cluster
- x-envoy-downstream-service-node
- x-envoy-expected-rq-timeout-ms
- x-envoy-external-address
- x-envoy-force-trace
- x-envoy-internal
- x-envoy-original-host
- x-envoy-original-path
- x-envoy-peer-metadata
- x-envoy-peer-metadata-id
- x-istio-attributes
- traceparent
- tracestate
- baggage
- b3
- x-b3-traceid
- x-b3-spanid
- x-b3-parentspanid
- x-b3-sampled
- x-b3-flags
- x-ot-span-context
- x-cloud-trace-context
- x-amzn-trace-id
- grpc-trace-bin
- sw8
{{- end }}
