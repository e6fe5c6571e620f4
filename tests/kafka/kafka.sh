#!/usr/bin/env bash
# A real Apache Kafka of 1 or 3 nodes on this machine, to develop and test against. Each node is a
# process that can be killed, frozen and brought back; none of it is for production.
#
# Needs a JDK 17 or newer, Maven, and openssl for the secure mode. Debian:
#   apt-get install openjdk-17-jdk-headless maven openssl
# Kafka's jars come from Maven Central, once (54 MB).
#
#   kafka.sh start [1|3]        start a cluster; when every node answers, print the bootstrap servers
#   kafka.sh down               end every node and delete all data
#   kafka.sh bootstrap [NAME]   the bootstrap servers of a listener: plain (the default), sasl, tls, mtls
#   kafka.sh listeners          every listener, and how to get in
#   kafka.sh kill N | stop N    end node N at once (SIGKILL) | cleanly (SIGTERM)
#   kafka.sh revive N           start node N again on its data
#   kafka.sh freeze N | thaw N  stop the process of node N where it stands (SIGSTOP) | let it go on
#   kafka.sh cli CLASS ARG…     run a tool of Kafka's on the cluster; --bootstrap-server is added
#   kafka.sh java FILE ARG…     run a Java program of one file with Kafka's jars
#   kafka.sh install            fetch the jars and do nothing else
#
# For example:
#   kafka.sh start && export TALLY__LOG__KIND=kafka TALLY__KAFKA__BOOTSTRAP_SERVERS=$(kafka.sh bootstrap)
#   kafka.sh cli TopicCommand --list
#   kafka.sh cli consumer.ConsoleConsumer --topic tally.interactions --from-beginning
#   kafka.sh cli consumer.group.ConsumerGroupCommand --describe --group tally-projector
# kcat reads and writes topics too. That of Debian 12 has a librdkafka (2.0.2) whose SCRAM this Kafka
# refuses as "invalid credentials"; with PLAIN and TLS it gets in.
#
# Settings are read from the environment; a cluster is known by its folder and port, so clusters
# with others run side by side.
#   KAFKA_HOME    the jars                     ${XDG_CACHE_HOME:-~/.cache}/tally-kafka
#   KAFKA_DATA    data, output, process ids    ${TMPDIR:-/tmp}/tally-kafka
#   KAFKA_PORT    node N has the ports from KAFKA_PORT + 10 N on, five at most; 19080
#   KAFKA_HEAP    memory for the heap of each node; 384m
#   KAFKA_SET     more properties of the brokers, with spaces between them, as in
#                 "log.flush.interval.messages=1"
#   KAFKA_SECURE  1: each node also has the listeners sasl, tls and mtls (see `kafka.sh listeners`).
#                 Who comes by them with a name may do what ACLs grant, and at first that is
#                 everything with topics and groups whose names begin with "tally". Who has no name
#                 (plain, tls) may do all.
#   KAFKA_PASSWORD  of the user tally, for `start`; tally-secret
#   KAFKA_TOOL    more options of the JVM of tools, as in "-XX:TieredStopAtLevel=4"
#   KAFKA_UNTIL   a process id: when that process has ended, the cluster goes down by itself
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${KAFKA_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/tally-kafka}
data=${KAFKA_DATA:-${TMPDIR:-/tmp}/tally-kafka}
port=${KAFKA_PORT:-19080}
quiet=-Dorg.slf4j.simpleLogger.defaultLogLevel=warn
broker=(java "-Xmx${KAFKA_HEAP:-384m}" -XX:+UseSerialGC "$quiet" -cp "$home/libs/*")
# A tool's life is short: the second compiler does not pay.
tool=(java -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 ${KAFKA_TOOL:-} "$quiet" -cp "$home/libs/*")

die() {
    echo "kafka.sh: $*" >&2
    exit 1
}

join() {
    local IFS=,
    echo "$*"
}

usage() {
    sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 2
}

# address NODE PLACE: the places are plain, controller, sasl, tls, mtls, from 0 on.
address() {
    echo "127.0.0.1:$((port + 10 * $1 + $2))"
}

nodes() {
    [ -f "$data/nodes" ] || die "no cluster in $data: '$0 start' comes first"
    seq "$(cat "$data/nodes")"
}

secure() {
    [ -d "$data/tls" ]
}

bootstrap() { # [NAME]
    local place all=() i
    case ${1:-plain} in
        plain) place=0 ;;
        sasl) place=2 ;;
        tls) place=3 ;;
        mtls) place=4 ;;
        *) die "no listener $1: there are plain, sasl, tls, mtls" ;;
    esac
    [ "$place" = 0 ] || secure || die "the cluster was not started with KAFKA_SECURE=1"
    for i in $(nodes); do all+=("$(address "$i" "$place")"); done
    join "${all[@]}"
}

listeners() {
    echo "plain  $(bootstrap plain)  PLAINTEXT: anyone"
    secure || return 0
    echo "sasl   $(bootstrap sasl)  SASL_PLAINTEXT: SCRAM-SHA-256 or PLAIN, user tally, password in $data/tls/password"
    echo "tls    $(bootstrap tls)  SSL: anyone who trusts $data/tls/ca.pem"
    echo "mtls   $(bootstrap mtls)  SSL: who shows a certificate, $data/tls/client.pem with the key $data/tls/client.key (user tally)"
    echo "A certificate authority that has signed nothing here is $data/tls/other-ca.pem; it has signed $data/tls/other-client.pem, key other-client.key."
}

# A process that has ended and that nobody has waited for is no process any more.
alive() { # NODE
    local pid
    pid=$(cat "$data/$1/pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null &&
        ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null
}

install() {
    command -v java >/dev/null || die "there is no Java: apt-get install openjdk-17-jdk-headless"
    command -v mvn >/dev/null || die "there is no Maven: apt-get install maven"
    mkdir -p "$home"
    # Whoever comes second waits for the first and finds the jars there.
    exec 9> "$home/lock"
    flock 9
    if ! cmp -s "$here/pom.xml" "$home/ready"; then
        rm -rf "$home/libs"
        mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
            "-DoutputDirectory=$home/libs" > "$home/mvn.log" 2>&1 ||
            { cat "$home/mvn.log" >&2; die "the jars can't be fetched"; }
        cp "$here/pom.xml" "$home/ready"
    fi
    exec 9>&-
}

# certificates: what the secure listeners need, in $data/tls, good for 30 days.
certificates() {
    command -v openssl >/dev/null || die "there is no openssl: apt-get install openssl"
    mkdir -p "$data/tls"
    cd "$data/tls"
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -sha256)
    authority() { # NAME
        openssl req -x509 "${key[@]}" -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    }
    signed() { # NAME SUBJECT AUTHORITY EXTENSION
        openssl req "${key[@]:0:4}" -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr"
        openssl x509 -req -in "$1.csr" -CA "$3.pem" -CAkey "$3.key" -CAcreateserial -days 30 -sha256 \
            -extfile <(printf '%s\n' "$4") -out "$1.pem"
        rm "$1.csr"
    }
    authority ca
    authority other-ca
    signed server localhost ca 'subjectAltName=IP:127.0.0.1,DNS:localhost'
    signed client tally ca 'extendedKeyUsage=clientAuth'
    signed other-client tally other-ca 'extendedKeyUsage=clientAuth'
    cat server.key server.pem > server-keystore.pem
    printf '%s\n' "${KAFKA_PASSWORD:-tally-secret}" > password
    cd - >/dev/null
}

configure() { # NODE COUNT
    local isr=$(($2 > 1 ? 2 : 1)) quorum=() listeners protocols i
    for i in $(seq "$2"); do quorum+=("$(address "$i" 1)"); done
    listeners=PLAINTEXT://$(address "$1" 0),CONTROLLER://$(address "$1" 1)
    protocols=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
    if secure; then
        listeners+=,SASL://$(address "$1" 2),TLS://$(address "$1" 3),MTLS://$(address "$1" 4)
        protocols+=,SASL:SASL_PLAINTEXT,TLS:SSL,MTLS:SSL
    fi
    cat <<END
process.roles=broker,controller
node.id=$1
controller.quorum.bootstrap.servers=$(join "${quorum[@]}")
listeners=$listeners
advertised.listeners=$listeners
listener.security.protocol.map=$protocols
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$data/$1/log
auto.create.topics.enable=false
default.replication.factor=$2
min.insync.replicas=$isr
offsets.topic.replication.factor=$2
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$2
transaction.state.log.min.isr=$isr
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$2
share.coordinator.state.topic.min.isr=$isr
group.initial.rebalance.delay.ms=0
# A node that was killed is missed soon.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.cleaner.dedupe.buffer.size=2097152
END
    ! secure || configure_secure
    printf '%s\n' ${KAFKA_SET:-}
}

configure_secure() {
    local login=org.apache.kafka.common.security
    cat <<END
sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.sasl.scram-sha-256.sasl.jaas.config=$login.scram.ScramLoginModule required;
listener.name.sasl.plain.sasl.jaas.config=$login.plain.PlainLoginModule required user_tally="$(cat "$data/tls/password")";
ssl.keystore.type=PEM
ssl.keystore.location=$data/tls/server-keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$data/tls/ca.pem
listener.name.tls.ssl.client.auth=none
listener.name.mtls.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*\$/\$1/,DEFAULT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
END
}

# let_in: the user tally, with a password, and to topics and groups whose names begin with "tally".
let_in() {
    local at
    at=(--bootstrap-server "$(bootstrap)")
    {
        "${tool[@]}" kafka.admin.ConfigCommand "${at[@]}" --alter --entity-type users --entity-name tally \
            --add-config "SCRAM-SHA-256=[password=$(cat "$data/tls/password")]"
        "${tool[@]}" org.apache.kafka.tools.AclCommand "${at[@]}" --add --allow-principal User:tally \
            --operation All --topic tally --group tally --resource-pattern-type prefixed
    } > "$data/let-in.out" 2>&1 || { cat "$data/let-in.out" >&2; die "the user tally can't be let in"; }
}

revive() { # NODE
    alive "$1" && return
    setsid "${broker[@]}" kafka.Kafka "$data/$1/server.properties" >> "$data/$1/out" 2>&1 < /dev/null &
    echo $! > "$data/$1/pid"
}

# await NODE…: until each answers a client.
await() {
    local i try
    for i in "$@"; do
        for try in $(seq 600); do
            # The port first: a tool takes a second to start.
            if (: < "/dev/tcp/127.0.0.1/$((port + 10 * i))") 2>/dev/null &&
                "${tool[@]}" org.apache.kafka.tools.TopicCommand --bootstrap-server "$(address "$i" 0)" --list >/dev/null 2>&1; then
                continue 2
            fi
            alive "$i" || break
            sleep 0.1
        done
        tail -20 "$data/$i/out" >&2
        die "node $i did not come up"
    done
}

# random_id: as Kafka writes one, and like Kafka none that begins as an option does.
random_id() {
    local id=-
    while [ "${id#-}" != "$id" ]; do id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '='); done
    echo "$id"
}

start() { # COUNT
    local count=$1 cluster controllers=() i
    case $count in 1 | 3) ;; *) die "a cluster has 1 or 3 nodes" ;; esac
    [ ! -e "$data/nodes" ] || die "there is a cluster in $data: '$0 down' ends it"
    install
    # Keys and passwords are in there.
    umask 077
    mkdir -p "$data"
    data=$(cd "$data" && pwd)
    if [ -n "${KAFKA_SECURE:-}" ]; then
        certificates > "$data/certificates.out" 2>&1 || { cat "$data/certificates.out" >&2; die "no certificates"; }
    fi
    cluster=$(random_id)
    for i in $(seq "$count"); do
        mkdir -p "$data/$i"
        configure "$i" "$count" > "$data/$i/server.properties"
        controllers+=("$i@$(address "$i" 1):$(random_id)")
    done
    for i in $(seq "$count"); do
        "${tool[@]}" kafka.tools.StorageTool format -t "$cluster" -c "$data/$i/server.properties" \
            --initial-controllers "$(join "${controllers[@]}")" >> "$data/$i/out" 2>&1 ||
            { cat "$data/$i/out" >&2; die "node $i can't be formatted"; }
    done
    echo "$count" > "$data/nodes"
    for i in $(seq "$count"); do revive "$i"; done
    if [ -n "${KAFKA_UNTIL:-}" ]; then
        (
            tail --pid="$KAFKA_UNTIL" -f /dev/null
            [ "$(cat "$data/cluster" 2>/dev/null)" != "$cluster" ] || down
        ) > /dev/null 2>&1 < /dev/null &
        echo "$cluster" > "$data/cluster"
    fi
    await $(seq "$count")
    ! secure || let_in
    bootstrap
}

# frozen PID: waits until it stands still. Each thread takes the signal by itself; until the last one
# has, an answer may still go out.
frozen() {
    local try
    for try in $(seq 500); do
        [ "$(cat "/proc/$1/task/"*/status 2>/dev/null | grep '^State:' | grep -cv 'T (stopped)')" != 0 ] || return 0
        sleep 0.02
    done
    cat "/proc/$1/task/"*/status | grep '^State:' | sort | uniq -c >&2
    return 1
}

# signal SIGNAL NODE: and waits until it has done what it does.
signal() {
    alive "$2" || return 0
    local pid
    pid=$(cat "$data/$2/pid")
    kill "-$1" "$pid"
    case $1 in
        KILL | TERM) while alive "$2"; do sleep 0.02; done ;;
        STOP) frozen "$pid" || die "node $2 could not be frozen" ;;
    esac
}

down() {
    local i
    for i in $(nodes); do signal KILL "$i"; done
    rm -rf "$data"
}

# node N: that it is one.
node() {
    nodes | grep -qx "${1:-}" || die "no node ${1:-}: there are $(join $(nodes))"
    echo "$1"
}

case ${1:-} in
    start) start "${2:-1}" ;;
    down) down ;;
    bootstrap) bootstrap "${2:-plain}" ;;
    listeners) listeners ;;
    kill) signal KILL "$(node "${2:-}")" ;;
    stop) signal TERM "$(node "${2:-}")" ;;
    revive) revive "$(node "${2:-}")"; await "$2" ;;
    freeze) signal STOP "$(node "${2:-}")" ;;
    thaw) signal CONT "$(node "${2:-}")" ;;
    cli)
        class=${2:-}
        case $class in '') usage ;; kafka.* | org.*) ;; *) class=org.apache.kafka.tools.$class ;; esac
        shift 2
        "${tool[@]}" "$class" --bootstrap-server "$(bootstrap)" "$@"
        ;;
    java) [ $# -gt 1 ] || usage; install; shift; exec "${tool[@]}" "$@" ;;
    install) install ;;
    *) usage ;;
esac
