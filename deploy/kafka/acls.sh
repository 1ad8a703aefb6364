#!/bin/sh
# Least privilege for each role, as Kafka ACLs. Prints the commands; pipe them to sh to run them.
#   deploy/kafka/acls.sh broker:9092 [PREFIX] | sh
# Principals: User:modelwarden-admin, -worker, -serving, -operator. Admin credentials: KAFKA_OPTS, as Kafka's own
# scripts read them.
set -eu
broker=${1:?usage: acls.sh BROKER:PORT [PREFIX]}
prefix=${2-modelwarden.}

allow() { # role operation... -- topic...
    role=$1
    shift
    operations=
    while [ "$1" != -- ]; do
        operations="$operations --operation $1"
        shift
    done
    shift
    for topic in "$@"; do
        echo "kafka-acls.sh --bootstrap-server $broker --add --force" \
            "--allow-principal User:modelwarden-$role$operations --topic $prefix$topic"
    done
}

# Makes and checks topics; reads and writes nothing.
echo "kafka-acls.sh --bootstrap-server $broker --add --force --allow-principal User:modelwarden-admin" \
    "--operation Create --operation Describe --operation DescribeConfigs --resource-pattern-type prefixed --topic $prefix"

# Reads events and people's words, writes what it finds; its state is its own.
allow worker Read Describe DescribeConfigs -- events feedback policy allowlist acks
allow worker Write Describe DescribeConfigs -- reference
allow worker Read Write Describe DescribeConfigs -- state snapshots alerts decisions commands audit dead-letter
echo "kafka-acls.sh --bootstrap-server $broker --add --force --allow-principal User:modelwarden-worker" \
    "--operation Read --operation Describe --group modelwarden"

# Emits events, obeys commands, acknowledges. Sees neither alerts nor other customers' decisions.
allow serving Write Describe -- events acks
allow serving Read Describe -- commands allowlist

# A person: reads everything but the events, says who is honest, changes the policy (signed) and the allowlist.
allow operator Read Describe -- alerts decisions commands acks audit dead-letter feedback policy allowlist reference
allow operator Write Describe -- feedback policy allowlist
