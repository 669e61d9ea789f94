{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{/* What works and is weaker, or stranger, than it could be; NOTES print it. */}}
{{- define "mail-egress.warnings" -}}
{{- $found := list }}
{{- $ports := .Values.gateway.ports }}
{{- if .Values.endToEndMail.enabled }}
  {{- $found = append $found "endToEndMail.enabled: on that port the gateway sees no calls, so api.calls does not limit them; what a sidecar may do at SES is up to IAM alone." }}
{{- end }}
{{- if .Values.smtp.enabled }}
  {{- $found = append $found "smtp.enabled: this version of svidmail has no route ses-smtp, so the door is open for nobody; leave it out." }}
{{- end }}
{{- if .Values.rolesAnywhere.enabled }}
  {{- $found = append $found "rolesAnywhere.enabled: this version of svidmail has no aws.source roles-anywhere, so the door is open for nobody; leave it out." }}
{{- end }}
{{- if not .Values.lateConnect.enabled }}
  {{- $found = append $found "lateConnect.enabled is false: whoever reaches the ports for byte streams makes the gateway dial AWS, without any certificate." }}
{{- end }}
{{- if not .Values.networkPolicy.enabled }}
  {{- $found = append $found "networkPolicy.enabled is false: a gateway that was broken into reaches the node's metadata service and every pod." }}
{{- end }}
{{- if not .Values.telemetry.enabled }}
  {{- $found = append $found "telemetry.enabled is false: whether refusals are logged is up to the mesh's settings." }}
{{- end }}
{{- range .Values.extraPrincipals }}
  {{- if ne (splitList "/" . | first) $.Values.trustDomain }}
    {{- $found = append $found (printf "extraPrincipals: %s is of another trust domain; the gateway needs that domain's bundle." .) }}
  {{- end }}
  {{- if not (hasSuffix "/svidmail" .) }}
    {{- $found = append $found (printf "extraPrincipals: %s is not a sidecar's own identity; if it is its pod's, the app and the pod's istio-proxy can use it too." .) }}
  {{- end }}
{{- end }}
{{- if not (contains "spire" .Values.gateway.templates) }}
  {{- $found = append $found (printf "gateway.templates %s names no template for SPIRE: with an identity from istiod's own CA no sidecar will trust the gateway." .Values.gateway.templates) }}
{{- end }}
{{- with .Values.spire.clusterSPIFFEIDs }}
  {{- if and .enabled (ne (dig "matchLabels" "svidmail.io/inject" "" (.podSelector | default dict)) "true") }}
    {{- $then := "lose the identity that SPIRE's charts give them as a fallback" }}
    {{- if .keepPodIdentity }}
      {{- $then = "get the usual identity as well, and one that has a ClusterSPIFFEID of its own may show the wrong one" }}
    {{- end }}
    {{- $found = append $found (printf "spire.clusterSPIFFEIDs.podSelector does not ask for the label svidmail.io/inject: \"true\": pods without a sidecar %s." $then) }}
  {{- end }}
{{- end }}
{{- if ne (printf "%d %d %d" (int $ports.api) (int $ports.end_to_end) (int $ports.smtp)) "9443 9444 9465" }}
  {{- $found = append $found (printf "gateway.ports are not the usual ones: pods that hand these on to istio-proxy need the annotation traffic.sidecar.istio.io/excludeOutboundPorts \"%d,%d,%d\"." (int $ports.api) (int $ports.end_to_end) (int $ports.smtp)) }}
{{- end }}
{{- if and (not .Values.gateway.autoscaling.enabled) (lt (int .Values.gateway.replicas) 2) }}
  {{- $found = append $found "gateway.replicas is less than 2: while its node is drained no mail leaves." }}
{{- end }}
{{- if and .Values.gateway.autoscaling.enabled (lt (int .Values.gateway.autoscaling.minReplicas) 2) }}
  {{- $found = append $found "gateway.autoscaling.minReplicas is less than 2: while its node is drained no mail leaves." }}
{{- end }}
{{- if and .Values.gateway.podDisruptionBudget.enabled (eq (toString .Values.gateway.podDisruptionBudget.maxUnavailable) "0") }}
  {{- $found = append $found "gateway.podDisruptionBudget.maxUnavailable is 0: nodes with a gateway pod cannot be drained." }}
{{- end }}
{{- $found | toJson }}
{{- end }}
