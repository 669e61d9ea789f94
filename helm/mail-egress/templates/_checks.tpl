{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{/*
Every value that cannot work, in one answer: the key, what is wrong with it, and the cure.  Types and unknown keys are
values.schema.json's; here is what a schema says badly or cannot know.
*/}}
{{- define "mail-egress.checks" -}}
{{- $found := list }}
{{- range list "identity" "regions" "clients" "ports" "calls" "upstream" "extraHosts" "gateway" "networkPolicy" "cluster" "mesh" }}
  {{- $found = concat $found (include (printf "mail-egress.check.%s" .) $ | fromJsonArray) }}
{{- end }}
{{- if $found }}
  {{- fail (printf "\n\nmail-egress cannot be installed like this:\n\n- %s\n" (join "\n- " $found)) }}
{{- end }}
{{- end }}

{{- define "mail-egress.check.identity" -}}
{{- $found := list }}
{{- $domain := .Values.trustDomain }}
{{- if eq $domain "" }}
  {{- $found = append $found "trustDomain is empty: set it to the mesh's SPIFFE trust domain, e.g. example.org" }}
{{- else if hasPrefix "spiffe://" $domain }}
  {{- $found = append $found (printf "trustDomain %q is a SPIFFE ID: give the trust domain alone, without spiffe:// and path" $domain) }}
{{- else if not (regexMatch "^[a-z0-9._-]{1,255}$" $domain) }}
  {{- $found = append $found (printf "trustDomain %q is no trust domain: lower-case letters, digits, dots, dashes and underscores only" $domain) }}
{{- end }}
{{- $key := empty .Values.fullnameOverride | ternary "the release's name gives" "fullnameOverride" }}
{{- $name := .Values.fullnameOverride | default (include "mail-egress.name" .) }}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$" $name) }}
  {{- $found = append $found (printf "%s %q is no name of a Service: set fullnameOverride to lower-case letters, digits and dashes, which begin with a letter, at most 63" $key $name) }}
{{- end }}
{{- range $i, $federated := .Values.federatedTrustDomains }}
  {{- if not (regexMatch "^[a-z0-9._-]{1,255}$" $federated) }}
    {{- $found = append $found (printf "federatedTrustDomains[%d] %q is no trust domain: lower-case letters, digits, dots, dashes and underscores only, e.g. other.example" $i $federated) }}
  {{- end }}
{{- end }}
{{- if hasKey (dict "istio-system" 1 "kube-system" 1 "default" 1) .Release.Namespace }}
  {{- $found = append $found (printf "the namespace %s is shared with others, and a policy in istio-system binds the whole mesh: install into a namespace of its own, helm install --namespace mail-egress --create-namespace" .Release.Namespace) }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.regions" -}}
{{- $found := list }}
{{- $seen := dict }}
{{- if not .Values.regions }}
  {{- $found = append $found "regions is empty: name the AWS regions whose SES is used, e.g. regions: [eu-central-1]" }}
{{- end }}
{{- range $i, $region := .Values.regions }}
  {{- if not (regexMatch "^[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}$" $region) }}
    {{- $found = append $found (printf "regions[%d] %q is no AWS region: it should look like eu-central-1 (a region, no availability zone)" $i $region) }}
  {{- else if regexMatch "^[a-z]{2}-iso[a-z]?-" $region }}
    {{- $found = append $found (printf "regions[%d] %q is in a partition whose host names this chart does not know: leave it out and name its hosts in extraHosts" $i $region) }}
  {{- else if hasKey $seen $region }}
    {{- $found = append $found (printf "regions[%d] %q stands there twice: remove one" $i $region) }}
  {{- end }}
  {{- $_ := set $seen $region true }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.clients" -}}
{{- $found := list }}
{{- $seen := dict }}
{{- $label := "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" }}
{{- if not (or .Values.clients .Values.extraPrincipals) }}
  {{- $found = append $found "clients is empty, and so is extraPrincipals: nobody could send; name a workload, e.g. clients: [{namespace: shop, serviceAccount: checkout}]" }}
{{- end }}
{{- range $i, $client := .Values.clients }}
  {{- $who := printf "%s/%s" .namespace .serviceAccount }}
  {{- if contains "*" $who }}
    {{- $found = append $found (printf "clients[%d] %s has a wildcard: the policy names each workload exactly; list them one by one" $i $who) }}
  {{- else if not (regexMatch $label .namespace) }}
    {{- $found = append $found (printf "clients[%d].namespace %q is no namespace's name: lower-case letters, digits and dashes" $i .namespace) }}
  {{- else if not (regexMatch "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$" .serviceAccount) }}
    {{- $found = append $found (printf "clients[%d].serviceAccount %q is no service account's name: lower-case letters, digits, dots and dashes" $i .serviceAccount) }}
  {{- else if hasKey $seen $who }}
    {{- $found = append $found (printf "clients[%d] %s stands there twice: remove one" $i $who) }}
  {{- end }}
  {{- $_ := set $seen $who true }}
{{- end }}
{{- $domains := prepend .Values.federatedTrustDomains .Values.trustDomain }}
{{- range $i, $principal := .Values.extraPrincipals }}
  {{- $domain := splitList "/" $principal | first }}
  {{- if hasPrefix "spiffe://" $principal }}
    {{- $found = append $found (printf "extraPrincipals[%d] %q: a policy writes identities without the scheme; remove spiffe://" $i $principal) }}
  {{- else if contains "*" $principal }}
    {{- $found = append $found (printf "extraPrincipals[%d] %q has a wildcard, and would let in identities that do not exist yet; list them one by one" $i $principal) }}
  {{- else if not (regexMatch "^[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$" $principal) }}
    {{- $found = append $found (printf "extraPrincipals[%d] %q is no identity: it should look like example.org/ns/shop/sa/checkout/svidmail" $i $principal) }}
  {{- else if not (has $domain $domains) }}
    {{- $found = append $found (printf "extraPrincipals[%d] %q is of the trust domain %s, not of %s: correct it, or if the gateway has that domain's bundle, add it to federatedTrustDomains" $i $principal $domain $.Values.trustDomain) }}
  {{- else if hasKey $seen $principal }}
    {{- $found = append $found (printf "extraPrincipals[%d] %q stands there twice: remove one" $i $principal) }}
  {{- end }}
  {{- $_ := set $seen $principal true }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.ports" -}}
{{- $found := list }}
{{- $seen := dict }}
{{- range $via, $port := .Values.gateway.ports }}
  {{- $key := printf "gateway.ports.%s" $via }}
  {{- $number := int $port }}
  {{- if hasKey $seen (toString $number) }}
    {{- $found = append $found (printf "%s %d is %s as well: each needs a port of its own" $key $number (get $seen (toString $number))) }}
  {{- else if and (ge $number 15000) (le $number 15100) }}
    {{- $found = append $found (printf "%s %d is among the ports of Istio's proxy itself (15000 to 15100): take another, usual are 9443, 9444 and 9465" $key $number) }}
  {{- else if or (lt $number 1024) (gt $number 65535) }}
    {{- $found = append $found (printf "%s %d cannot be opened by the gateway, which is not root: take one from 1024 to 65535, usual are 9443, 9444 and 9465" $key $number) }}
  {{- end }}
  {{- $_ := set $seen (toString $number) $key }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.calls" -}}
{{- $found := list }}
{{- if not .Values.api.calls }}
  {{- $found = append $found "api.calls is empty: no call would pass the API port; svidmail needs {method: POST, path: /v2/email/outbound-emails}" }}
{{- end }}
{{- range $i, $call := .Values.api.calls }}
  {{- if not (regexMatch "^/[A-Za-z0-9/._~-]*$" .path) }}
    {{- $found = append $found (printf "api.calls[%d].path %q is no plain path: it begins with / and is compared exactly, so no wildcard, no pattern, no query" $i .path) }}
  {{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.upstream" -}}
{{- $found := list }}
{{- range $key := list "connectTimeout" "timeout" "idleTimeout" "streamIdleTimeout" }}
  {{- $value := index $.Values.upstream $key }}
  {{- if not (regexMatch "^[1-9][0-9]*(ms|s|m|h)$" $value) }}
    {{- $found = append $found (printf "upstream.%s %q is no duration: write a number and ms, s, m or h, e.g. 30s" $key $value) }}
  {{- end }}
{{- end }}
{{- if not (or (eq .Values.upstream.caCertificates "system") (hasPrefix "/" .Values.upstream.caCertificates)) }}
  {{- $found = append $found (printf "upstream.caCertificates %q is neither system nor an absolute path in the gateway's pod: without roots AWS would not be judged" .Values.upstream.caCertificates) }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.extraHosts" -}}
{{- $found := list }}
{{- $own := include "mail-egress.hosts" (dict "Values" (omit .Values "extraHosts")) | fromJson }}
{{- $seen := dict }}
{{- range $i, $extra := .Values.extraHosts }}
  {{- $key := printf "extraHosts[%d]" $i }}
  {{- $port := .port | default (eq .via "smtp" | ternary 465 443) | int }}
  {{- if not (regexMatch "^([a-z0-9]([a-z0-9-]*[a-z0-9])?[.])+[a-z]([a-z0-9-]*[a-z0-9])?$" .host) }}
    {{- $found = append $found (printf "%s.host %q is no full DNS name in lower case: the name chooses the route and is looked for in the host's certificate, so no address and no wildcard" $key .host) }}
  {{- else if hasKey (get $own .host | default dict) .via }}
    {{- $found = append $found (printf "%s %s is reached by %s already, as a host of regions: remove it" $key .host .via) }}
  {{- else if hasKey $seen (printf "%s %s" .host .via) }}
    {{- $found = append $found (printf "%s %s by %s stands there twice: remove one" $key .host .via) }}
  {{- else if and (ne .via "end_to_end") (eq $port (int $.Values.gateway.ports.end_to_end)) }}
    {{- $found = append $found (printf "%s.port %d is gateway.ports.end_to_end, by which the chart tells bytes from calls: choose another for gateway.ports.end_to_end" $key $port) }}
  {{- else if and (ne .via "end_to_end") (regexMatch "(^|[.])(sts|rolesanywhere)(-fips)?[.]" .host) }}
    {{- $found = append $found (printf "%s.via %s would show the gateway the credentials in the answers of %s: use end_to_end, as svidmail does" $key .via .host) }}
  {{- else if and (ne .via "end_to_end") (regexMatch (printf "[.]svc([.]cluster[.]local|[.]%s)?$" (replace "." "[.]" $.Values.clusterDomain)) .host) }}
    {{- $found = append $found (printf "%s.via %s would have the gateway judge %s, a Service of a cluster, by the roots that it judges AWS by: use end_to_end" $key .via .host) }}
  {{- else if hasKey $seen (printf "%s:%d" .host $port) }}
    {{- $found = append $found (printf "%s: %s port %d is there by another port of the gateway: one host port goes one way" $key .host $port) }}
  {{- end }}
  {{- $_ := set $seen (printf "%s %s" .host .via) true }}
  {{- if ne .via "end_to_end" }}{{ $_ := set $seen (printf "%s:%d" .host $port) true }}{{ end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{- define "mail-egress.check.gateway" -}}
{{- $found := list }}
{{- with .Values.gateway.autoscaling }}
  {{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
    {{- $found = append $found (printf "gateway.autoscaling.minReplicas %d is more than maxReplicas %d: correct one of them" (int .minReplicas) (int .maxReplicas)) }}
  {{- end }}
  {{- $resources := $.Values.gateway.resources | default dict }}
  {{- if and .enabled (not (dig "requests" "cpu" (dig "limits" "cpu" "" $resources) $resources)) }}
    {{- $found = append $found "gateway.resources.requests.cpu is missing, and gateway.autoscaling counts in percent of it: set it, e.g. 100m" }}
  {{- end }}
{{- end }}
{{- if not (regexMatch "^[A-Za-z0-9._-]+(,[A-Za-z0-9._-]+)*$" .Values.gateway.templates) }}
  {{- $found = append $found (printf "gateway.templates %q is no list of injection templates: names with commas between, e.g. gateway,spire-gateway" .Values.gateway.templates) }}
{{- end }}
{{- range list "istio" "svidmail.io/gateway-namespace" "sidecar.istio.io/inject" "istio.io/rev" "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/part-of" }}
  {{- if hasKey $.Values.gateway.podLabels . }}
    {{- $found = append $found (printf "gateway.podLabels may not set %s, which the chart sets itself: remove it there" .) }}
  {{- end }}
{{- end }}
{{- range list "inject.istio.io/templates" "proxy.istio.io/config" }}
  {{- if hasKey $.Values.gateway.podAnnotations . }}
    {{- $found = append $found (printf "gateway.podAnnotations may not set %s, which the chart sets itself: use gateway.templates, gateway.concurrency, gateway.drainSeconds" .) }}
  {{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{/* Blocks that hold a link-local or metadata address, or so much that nobody could say what they hold. */}}
{{- define "mail-egress.check.networkPolicy" -}}
{{- $found := list }}
{{- with .Values.networkPolicy }}
{{- if .enabled }}
  {{- if not (or .aws.internet .aws.cidrs) }}
    {{- $found = append $found "networkPolicy.aws.internet is false and networkPolicy.aws.cidrs is empty: the gateway could reach nothing; name the blocks of the VPC's interface endpoints" }}
  {{- end }}
  {{- $open := concat (include "mail-egress.clientNamespaces" $ | fromJsonArray) .clientNamespaces }}
  {{- $closed := list }}
  {{- range $i, $principal := $.Values.extraPrincipals }}
    {{- $parts := splitList "/" $principal }}
    {{- if and (gt (len $parts) 2) (eq (index $parts 0) $.Values.trustDomain) (eq (index $parts 1) "ns") (not (has (index $parts 2) $open)) }}
      {{- $closed = append $closed (printf "extraPrincipals[%d] %q lives in a namespace that the gateway's NetworkPolicy does not let in: add %s to networkPolicy.clientNamespaces" $i $principal (index $parts 2)) }}
    {{- end }}
  {{- end }}
  {{- $found = concat $found $closed }}
  {{- if and $.Values.extraPrincipals (not $open) (not $closed) }}
    {{- $found = append $found "networkPolicy.clientNamespaces is empty, and there are no clients: nobody could dial the gateway; name the namespaces of extraPrincipals" }}
  {{- end }}
  {{- with .dns.nodeCache }}
    {{- if or (not (regexMatch "^[0-9]{1,3}([.][0-9]{1,3}){3}$" .)) (regexMatch "^169[.]254[.](169|170)[.]" .) }}
      {{- $found = append $found (printf "networkPolicy.dns.nodeCache %s is not the address of a DNS cache on the nodes: give its IPv4 address alone, often 169.254.20.10; a cloud's metadata service answers DNS too and is not opened" .) }}
    {{- end }}
  {{- end }}
  {{- $blocks := list }}
  {{- range $i, $cidr := .aws.cidrs }}
    {{- $blocks = append $blocks (dict "key" (printf "networkPolicy.aws.cidrs[%d]" $i) "cidr" $cidr) }}
  {{- end }}
  {{- range $i, $rule := .extraEgress }}
    {{- if not .to }}
      {{- $found = append $found (printf "networkPolicy.extraEgress[%d] has no to, and would open everything, the cloud's metadata service too: say where to" $i) }}
    {{- end }}
    {{- range $j, $peer := .to }}
      {{- with .ipBlock }}
        {{- $blocks = append $blocks (dict "key" (printf "networkPolicy.extraEgress[%d].to[%d].ipBlock.cidr" $i $j) "cidr" .cidr) }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- range $blocks }}
    {{- $block := include "mail-egress.block" .cidr | fromJson }}
    {{- if not $block.groups }}
      {{- $found = append $found (printf "%s %q is no block of addresses: it should look like 10.1.0.0/16 or 2001:db8::/48" .key .cidr) }}
    {{- else }}
      {{- $held := "" }}
      {{- $isWithin := false }}
      {{- range list "169.254.0.0/16" "100.100.100.200/32" "168.63.129.16/32" "192.0.0.192/32" "fe80::/10" "fd00:ec2::/32" "fd20:ce::254/128" }}
        {{- $metadata := include "mail-egress.block" . | fromJson }}
        {{- if and (not $held) (include "mail-egress.blocksMeet" (list $block $metadata)) }}
          {{- $held = . }}
          {{- $isWithin = ge (int $block.bits) (int $metadata.bits) }}
        {{- end }}
      {{- end }}
      {{- if and $held $isWithin }}
        {{- $found = append $found (printf "%s %s holds link-local or metadata addresses (%s), where a gateway that was broken into finds the node's credentials: leave it out" .key .cidr $held) }}
      {{- else if $held }}
        {{- $found = append $found (printf "%s %s is so wide that it holds link-local or metadata addresses (%s): name the blocks that are needed; networkPolicy.aws.internet opens the Internet without those" .key .cidr $held) }}
      {{- else if lt (int $block.bits) (eq (len $block.groups) 2 | ternary 8 32) }}
        {{- $found = append $found (printf "%s %s is so wide that nobody can say what it holds: name the blocks that are needed; networkPolicy.aws.internet opens the Internet without metadata addresses" .key .cidr) }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{/* A block of addresses as {"bits": N, "groups": [groups of 16 bits]}, 2 of these for IPv4 and 8 for IPv6; no groups if it is
     none. */}}
{{- define "mail-egress.block" -}}
{{- $groups := list }}
{{- $bits := splitList "/" . | last | int }}
{{- $address := splitList "/" . | first | lower }}
{{- $byte := "(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])" }}
{{- if regexMatch (printf "^%s([.]%s){3}/([12]?[0-9]|3[0-2])$" $byte $byte) . }}
  {{- $bytes := splitList "." $address }}
  {{- range list 0 2 }}
    {{- $groups = append $groups (add (mul 256 (index $bytes . | int)) (index $bytes (add1 . | int) | int)) }}
  {{- end }}
{{- else if regexMatch "^([0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}/([1-9]?[0-9]|1[01][0-9]|12[0-8])$" . }}
  {{- $halves := splitList "::" $address }}
  {{- $front := splitList ":" (first $halves) | compact }}
  {{- $back := splitList ":" (eq (len $halves) 1 | ternary "" (last $halves)) | compact }}
  {{- $missing := sub 8 (add (len $front) (len $back)) | int }}
  {{- $isWhole := or (and (eq (len $halves) 1) (eq $missing 0)) (and (eq (len $halves) 2) (gt $missing 0)) }}
  {{- if $isWhole }}
    {{- range until $missing }}{{ $front = append $front "0" }}{{ end }}
    {{- range concat $front $back }}
      {{- $number := 0 }}
      {{- range splitList "" . }}
        {{- $number = add (mul 16 $number) (len (splitList . "0123456789abcdef" | first)) }}
      {{- end }}
      {{- $groups = append $groups $number }}
    {{- end }}
  {{- end }}
{{- end }}
{{- dict "bits" $bits "groups" $groups | toJson }}
{{- end }}

{{/* "yes" if two blocks have an address in common.  Argument: list BLOCK BLOCK. */}}
{{- define "mail-egress.blocksMeet" -}}
{{- $one := index . 0 }}
{{- $other := index . 1 }}
{{- $bits := min (int $one.bits) (int $other.bits) | int }}
{{- $meet := eq (len $one.groups) (len $other.groups) }}
{{- if $meet }}
  {{- $size := list 65536 32768 16384 8192 4096 2048 1024 512 256 128 64 32 16 8 4 2 1 }}
  {{- range $i, $group := $one.groups }}
    {{- $counts := max 0 (min 16 (sub $bits (mul 16 $i))) | int }}
    {{- $step := index $size $counts }}
    {{- if ne (div (int $group) $step) (div (index $other.groups $i | int) $step) }}{{ $meet = false }}{{ end }}
  {{- end }}
{{- end }}
{{- if $meet }}yes{{ end }}
{{- end }}
