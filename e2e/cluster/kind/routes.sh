#!/bin/sh
# The pod network of a kind node that was made here, where kind's own cannot be pulled: a bridge for this node's pods, and routes to
# those of the other nodes. It knows no NetworkPolicy.
account=/var/run/secrets/kubernetes.io/serviceaccount
while :; do
    kubectl --server="https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT" --certificate-authority=$account/ca.crt \
        --token="$(cat $account/token)" get nodes \
        -o jsonpath='{range .items[*]}{.metadata.name} {.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}' >/tmp/nodes
    while read -r name pods address; do
        [ -n "$address" ] || continue
        if [ "$name" != "$NODE_NAME" ]; then
            ip route replace "$pods" via "$address"
        elif [ ! -e /etc/cni/net.d/10-bridge.conflist ]; then
            cat >/etc/cni/net.d/.new <<J
{"cniVersion": "1.0.0", "name": "weir-e2e", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
            mv /etc/cni/net.d/.new /etc/cni/net.d/10-bridge.conflist
        fi
    done </tmp/nodes
    sleep 5
done
