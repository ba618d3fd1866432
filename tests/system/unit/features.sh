# shellcheck shell=bash
# Everything that the gateway can do works under the unit, and workers are as confined as without it.

check "it starts, and start returns when it is ready" systemctl start aisix
check "it has its configuration from the Cloud" ready
check "its status says what it serves" until_true 10 sh -c 'systemctl show aisix -p StatusText | grep "serving revision" >/dev/null'
check "it serves a request through the upstream" serves
check "both listeners are stored" is NFileDescriptorStore 2
check "it is no root" [ "$(stat -c %U "/proc/$(shown MainPID)")" != root ]
check "the control socket is for the group" [ "$(stat -c '%a %G' /run/aisix/aisix.sock)" = "660 aisix" ]
id=$(ask slow -o /dev/null -D - | tr -d '\r' | sed -n 's/^x-aisix-request-id: //p')
found() { journalctl -u aisix --no-pager -o cat F_REQUEST_ID="$id" | grep 'proxy request completed' >/dev/null; }
check "the journal finds a request by its id" until_true 10 found
of_worker() { [ "$(journalctl -u aisix --no-pager -o json F_REQUEST_ID="$id" F_STATUS=200 | jq -r .AISIX_ROLE | sort -u)" = proxy ]; }
check "and by its status, with the worker's role" of_worker

# TLS (the signer), spans (export); the cache is there since its policy is.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
    -keyout /etc/aisix/listener.key -out /etc/aisix/listener.crt 2>/dev/null
chgrp aisix /etc/aisix/listener.key && chmod 640 /etc/aisix/listener.key
variable AISIX_PROXY__TLS__CERT_FILE /etc/aisix/listener.crt
variable AISIX_PROXY__TLS__KEY_FILE /etc/aisix/listener.key
variable AISIX_OBSERVABILITY__TRACING__OTLP__ENABLED true
variable AISIX_OBSERVABILITY__TRACING__OTLP__ENDPOINT http://127.0.0.1:4318
check "it starts with TLS and a collector" restart
over_tls() { url=https://127.0.0.1:3000 ask fast --cacert /etc/aisix/listener.crt | grep '^data: \[DONE\]' >/dev/null; }
check "it serves over TLS" over_tls
roles="cache egress export proxy proxy signer status"
check "every role runs" until_true 10 status_is '[.workers[].role] | sort | join(" ")' "$roles"
check "each is confined in full" until_true 10 status_is '[.workers[].sandbox] | unique | join(" ")' full
check "each has a user of its own" status_is '[.workers[] | .user] | unique | length' 6
check "none of them is named in /proc but by itself" [ "$(systemctl show aisix -p ProtectProc --value)" = invisible ]
check "what they use is measured all the same" until_true 10 sh -c \
    "curl -s http://127.0.0.1:9090/metrics | grep '^aisix_process_resident_memory_bytes' | grep 'role=\"proxy\"' >/dev/null"

pid=$(shown MainPID)
check "an upgrade in place" aisix upgrade >/dev/null
check "every worker is new" until_true 20 log_has "upgraded: every worker is new"
check "the process is the same" is MainPID "$pid"
check "each worker is confined in full after it" until_true 10 status_is '[.workers[].sandbox] | unique | join(" ")' full
check "it serves over TLS after it" over_tls
check "reload works" systemctl reload aisix
echo 'proxy: {addr: nonsense}' >/tmp/broken.yaml
cp /etc/aisix/config.managed.yaml /tmp/good.yaml
cp /tmp/broken.yaml /etc/aisix/config.managed.yaml
check "reload of settings that cannot be used fails" not systemctl reload aisix 2>/dev/null
cp /tmp/good.yaml /etc/aisix/config.managed.yaml
check "and changes nothing" over_tls
no_error() {
    local code=0
    aisix doctor >/tmp/doctor 2>&1 || code=$?
    [ $code = 0 ] || [ $code = 3 ] || { cat /tmp/doctor; return 1; }
}
check "the doctor finds no error" no_error
check "a report is made" aisix bundle-report --output /tmp/report.tar.gz >/dev/null
check "the Cloud is told of the usage" until_true 20 sh -c "curl -s http://127.0.0.1:7945/usage | grep $id >/dev/null"

# A new bundle, as somebody would put it there.
fingerprint() { status .identity.fingerprint_sha256; }
before=$(fingerprint)
# shellcheck disable=SC2154 # from install.sh
/root/tools/aisix-cloud issue --data /root/cloud --env "$environment" --out /root/mtls2 >/dev/null
install -o aisix -m 600 /root/mtls2/* /etc/aisix/mtls/
renewed() { [ "$(fingerprint)" != "$before" ]; }
check "a new bundle is taken over without a restart" until_true 30 renewed

for name in PROXY__TLS__CERT_FILE PROXY__TLS__KEY_FILE OBSERVABILITY__TRACING__OTLP__ENABLED OBSERVABILITY__TRACING__OTLP__ENDPOINT; do
    variable AISIX_$name
done
check "it starts without them" restart
