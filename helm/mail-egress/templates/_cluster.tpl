{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{/* What the chart can only know from a cluster: `helm template` has none, and then nothing here is found. */}}

{{/*
Istio's version: as the values say, else as the tag of istiod's image says; "" where neither can be known.  Of several
istiods those of gateway.revision count, and all where it is empty or a tag; of these the oldest, which may be the one that
makes the gateway.
*/}}
{{- define "mail-egress.istioVersion" -}}
{{- $oldest := .Values.istio.version }}
{{- if and .Values.istio.lookUp (not $oldest) }}
  {{- $all := list }}
  {{- $chosen := list }}
  {{- range (lookup "apps/v1" "Deployment" .Values.networkPolicy.istiod.namespace "").items }}
    {{- $labels := dig "metadata" "labels" dict . }}
    {{- if eq (get $labels "app") "istiod" }}
      {{- $all = append $all . }}
      {{- if eq (get $labels "istio.io/rev") $.Values.gateway.revision }}{{ $chosen = append $chosen . }}{{ end }}
    {{- end }}
  {{- end }}
  {{- range $chosen | default $all }}
    {{- range .spec.template.spec.containers }}
      {{- $version := regexFind "[0-9]+[.][0-9]+[.][0-9]+" (.image | splitList ":" | last) }}
      {{- if and $version (or (not $oldest) (semverCompare (printf "<%s" $oldest) $version)) }}
        {{- $oldest = $version }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $oldest -}}
{{- end }}

{{/* What the cluster offers.  Rendered without one, nothing is known of it, and nothing refused. */}}
{{- define "mail-egress.check.cluster" -}}
{{- $found := list }}
{{- $offers := .Capabilities.APIVersions }}
{{- $hasCluster := $offers.Has "apiregistration.k8s.io/v1" }}
{{- if not ($offers.Has "networking.istio.io/v1") }}
  {{- if or ($offers.Has "networking.istio.io/v1beta1") ($offers.Has "networking.istio.io/v1alpha3") }}
    {{- $found = append $found "the cluster's Istio is older than 1.22 (it lacks networking.istio.io/v1): upgrade Istio to 1.29 or newer" }}
  {{- else if $hasCluster }}
    {{- $found = append $found "the cluster has no Istio (it lacks networking.istio.io/v1): install Istio 1.29 or newer first" }}
  {{- end }}
{{- end }}
{{- if and .Values.spire.clusterSPIFFEIDs.enabled $hasCluster (not ($offers.Has "spire.spiffe.io/v1alpha1")) }}
  {{- $found = append $found "the cluster has no SPIRE controller manager (it lacks spire.spiffe.io/v1alpha1): install it, or set spire.clusterSPIFFEIDs.enabled to false and make the entries that NOTES then name by hand" }}
{{- end }}
{{- $version := include "mail-egress.istioVersion" . }}
{{- if $version }}
  {{- if not (regexMatch "^[0-9]+[.][0-9]+([.][0-9]+)?(-.*)?$" $version) }}
    {{- $found = append $found (printf "istio.version %q is no version: write it like 1.31.0" $version) }}
  {{- else }}
    {{- if semverCompare "<1.27.0-0" $version }}
      {{- $found = append $found (printf "Istio %s is too old: before 1.27 a gateway cannot have its identity from SPIRE by an injection template; upgrade Istio to 1.29 or newer" $version) }}
    {{- else }}
      {{- if and .Values.lateConnect.enabled (semverCompare "<1.29.0-0" $version) }}
        {{- $found = append $found (printf "Istio %s has no late connect: upgrade Istio to 1.29 or newer, or set lateConnect.enabled to false" $version) }}
      {{- end }}
      {{- if and .Values.telemetry.enabled .Values.telemetry.disableContextPropagation (semverCompare "<1.31.0-0" $version) }}
        {{- $found = append $found (printf "Istio %s does not know the field disableContextPropagation: set telemetry.disableContextPropagation to false (the API port removes trace headers all the same), or upgrade Istio to 1.31" $version) }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{/*
Ports that the mesh lets past istio-proxy in every pod, as the values say, else as istiod does: {excludeOutboundPorts:
[PORT…], excludeInboundPorts: …}.  Of several istiods that of gateway.revision counts, and where it is empty or a tag and none
has that name, all together: who injects an app's pod is not known, and a port too many is one that the app asked for.
*/}}
{{- define "mail-egress.meshPorts" -}}
{{- $asked := list }}
{{- if .Values.istio.lookUp }}
  {{- $namespace := .Values.networkPolicy.istiod.namespace }}
  {{- $name := empty .Values.gateway.revision | ternary "istio-sidecar-injector" (printf "istio-sidecar-injector-%s" .Values.gateway.revision) }}
  {{- $injectors := list }}
  {{- with lookup "v1" "ConfigMap" $namespace $name }}
    {{- $injectors = list . }}
  {{- else }}
    {{- range (lookup "v1" "ConfigMap" $namespace "").items }}
      {{- if hasPrefix "istio-sidecar-injector" .metadata.name }}{{ $injectors = append $injectors . }}{{ end }}
    {{- end }}
  {{- end }}
  {{- range $injectors }}
    {{- $asked = append $asked (dig "global" "proxy" dict (dig "data" "values" "" . | fromYaml)) }}
  {{- end }}
{{- end }}
{{- $found := dict }}
{{- range $key := list "excludeOutboundPorts" "excludeInboundPorts" }}
  {{- $ports := index $.Values.istio $key }}
  {{- if not $ports }}
    {{- range $asked }}
      {{- range get . $key | toString | splitList "," }}
        {{- with regexFind "[0-9]+" . }}{{ $ports = append $ports (int .) }}{{ end }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- $_ := set $found $key (uniq $ports) }}
{{- end }}
{{- $found | toJson }}
{{- end }}

{{/* Settings of istiod that the gateway stands on: one trust domain for the mesh and SPIRE, and the pod's templates. */}}
{{- define "mail-egress.check.mesh" -}}
{{- $found := list }}
{{- if .Values.istio.lookUp }}
  {{- $namespace := .Values.networkPolicy.istiod.namespace }}
  {{- $suffix := empty .Values.gateway.revision | ternary "" (printf "-%s" .Values.gateway.revision) }}
  {{- with lookup "v1" "ConfigMap" $namespace (printf "istio%s" $suffix) }}
    {{- $domain := dig "trustDomain" "cluster.local" (dig "data" "mesh" "" . | fromYaml) }}
    {{- if ne $domain $.Values.trustDomain }}
      {{- $found = append $found (printf "trustDomain is %s, and the mesh's (meshConfig.trustDomain of istiod) is %s: the two and SPIRE's must be one; correct whichever is wrong" $.Values.trustDomain $domain) }}
    {{- end }}
  {{- end }}
  {{- with lookup "v1" "ConfigMap" $namespace (printf "istio-sidecar-injector%s" $suffix) }}
    {{- $templates := dig "templates" dict (dig "data" "config" "" . | fromYaml) }}
    {{- range splitList "," $.Values.gateway.templates }}
      {{- if and $templates (not (hasKey $templates .)) }}
        {{- $found = append $found (printf "gateway.templates names %s, which istiod does not have (it has %s): add it to sidecarInjectorWebhook.templates of istiod's values, as README.md shows" . (keys $templates | sortAlpha | join ", ")) }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $found | toJson }}
{{- end }}
