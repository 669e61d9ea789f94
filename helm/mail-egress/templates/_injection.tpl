{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* What the library makes the sidecar from: `injection` of the values, with the ports of this gateway. */}}
{{- define "mail-egress.injection.values" -}}
{{- $own := list "failurePolicy" "namespaceSelector" -}}
{{- $given := dict -}}
{{- range $key, $value := .Values.injection -}}
  {{- if not (has $key $own) -}}
    {{- $_ := set $given $key $value -}}
  {{- end -}}
{{- end -}}
{{- $values := include "svidmail.overlay" $given | fromYaml -}}
{{- $_ := set $values "config" (dict "gateway" (dict "ports" .Values.gateway.ports)) -}}
{{- $_ := set $values "istio" (include "mail-egress.meshPorts" . | fromJson) -}}
{{- toYaml $values -}}
{{- end -}}

{{- define "mail-egress.injection.check" -}}
{{- $injection := .Values.injection -}}
{{- if semverCompare "<1.36.0-0" .Capabilities.KubeVersion.Version -}}
  {{- fail (printf "injection.enabled: MutatingAdmissionPolicy is stable from Kubernetes 1.36 on, and this is %s; set injection.enabled: false, and give apps the sidecar by the library chart svidmail-lib (helm template judges by --kube-version)" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- include "svidmail.checkImage" (list "injection." $injection.image) -}}
{{- if not (has $injection.failurePolicy (list "Ignore" "Fail")) -}}
  {{- fail (printf "injection.failurePolicy: %q is none; allowed: Ignore, Fail" ($injection.failurePolicy | toString)) -}}
{{- end -}}
{{- include "svidmail.checkSpool" (list "injection." (include "mail-egress.injection.values" . | fromYaml)) -}}
{{- end -}}

{{/* A value as a CEL literal: Object.spec.initContainers{name: "svidmail", …}.  An apiserver takes such literals in a
     JSONPatch, and quantities as plain strings.  Argument: list PATH VALUE, PATH being Object's path to the value. */}}
{{- define "mail-egress.injection.cel" -}}
{{- $path := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "map" $value -}}
  {{- /* Fields of Kubernetes whose keys are free: to CEL a map, not an object. */ -}}
  {{- $free := list "annotations" "labels" "limits" "matchLabels" "requests" "volumeAttributes" -}}
  {{- $isFree := has (splitList "." $path | last) $free -}}
  {{- $fields := list -}}
  {{- range $key, $below := $value -}}
    {{- $name := $isFree | ternary (toJson $key) $key -}}
    {{- $fields = append $fields (printf "%s: %s" $name (include "mail-egress.injection.cel" (list (printf "%s.%s" $path $key) $below))) -}}
  {{- end -}}
  {{- $isFree | ternary "" $path -}}
  {{- if $fields -}}
    {{- printf "{\n%s\n}" (join ",\n" $fields | indent 2) -}}
  {{- else -}}
    {}
  {{- end -}}
{{- else if kindIs "slice" $value -}}
  {{- $items := list -}}
  {{- range $value -}}
    {{- $items = append $items (include "mail-egress.injection.cel" (list $path .)) -}}
  {{- end -}}
  {{- printf "[%s]" (join ", " $items) -}}
{{- else -}}
  {{- toJson $value -}}
{{- end -}}
{{- end -}}

{{/* Annotations of a pod that may have none. */}}
{{- define "mail-egress.injection.annotations" -}}
(has(object.metadata.annotations) ? object.metadata.annotations : {})
{{- end -}}

{{- define "mail-egress.injection.hasSidecar" -}}
(has(object.spec.initContainers) && object.spec.initContainers.exists(c, c.name == "svidmail")) || object.spec.containers.exists(c, c.name == "svidmail")
{{- end -}}

{{- define "mail-egress.injection.labels" -}}
{{- include "mail-egress.labels" . }}
app.kubernetes.io/component: injection
{{- end -}}
