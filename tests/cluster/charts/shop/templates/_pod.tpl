{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* spec of a pod that runs app.py with this word.  Argument: list . WORD. */}}
{{- define "shop.pod" -}}
serviceAccountName: checkout
terminationGracePeriodSeconds: 10
securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
containers:
  - name: app
    image: {{ (index . 0).Values.image }}
    command: [python3, -u, /app/app.py, {{ index . 1 }}]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts:
      - {name: app, mountPath: /app}
volumes:
  - {name: app, configMap: {name: app}}
{{- end }}
