#!/bin/bash
# One run on a Slurm cluster:  sbatch deploy/slurm.sh my.yaml   (and options of run, such as --set embed.device=cuda)
# The config's store, videos and weights have to be on a disk that all nodes see (or s3://). Change what is marked.
#SBATCH --job-name=clip2video
#SBATCH --nodes=2                  # change
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16         # change
#SBATCH --gpus-per-node=1          # change, or leave out
#SBATCH --time=12:00:00            # change
#SBATCH --requeue                  # pre-empted or its head lost: it starts again, and goes on where it was
#SBATCH --no-kill                  # a worker lost: its units are done by the others
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120        # before the time is up: it stops in order, and queues again
set -euo pipefail

config=${1:?usage: sbatch deploy/slurm.sh CONFIG [OPTION...]}
shift
export PATH="${CLIP2VIDEO_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin:$PATH"   # change: the same path on all nodes
export RAY_USAGE_STATS_ENABLED=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} # this script runs there
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
cpus=${SLURM_CPUS_PER_TASK:-1}
# The first of its addresses; change where the nodes reach one another by another one.
read -r ip _ < <(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --all-ip-addresses)
address=$ip:$port

steps=()
driver=
again=

# shellcheck disable=SC2317  # the trap calls it
stop() {
    trap '' TERM INT USR1
    [[ -z $driver ]] || kill -TERM "$driver" 2>/dev/null || true
    [[ -z $driver ]] || wait "$driver" || true
    # srun hands this on to `ray start --block`, which stops its node.
    ((${#steps[@]} == 0)) || kill -TERM "${steps[@]}" 2>/dev/null || true
    wait || true
    # In the script's own time, and only when that is up: who cancels a job does not want it back.
    [[ -z $again ]] || scontrol requeue "$SLURM_JOB_ID"
}
trap stop EXIT
trap 'exit 143' TERM INT
trap 'again=yes; exit 0' USR1

# A step does not have the job's --cpus-per-task unless it is said.
srun --nodes=1 --ntasks=1 --nodelist="$head" --cpus-per-task="$cpus" --overlap \
    ray start --head --node-ip-address="$ip" --port="$port" --num-cpus="$cpus" --include-dashboard=false --block &
steps+=($!)
for _ in {1..120}; do
    if (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; then break; fi
    sleep 0.5
done
if ((${#nodes[@]} > 1)); then
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" \
        --cpus-per-task="$cpus" --no-kill --kill-on-bad-exit=0 \
        ray start --address="$address" --num-cpus="$cpus" --block &
    steps+=($!)
fi

# Beside this shell, which only so hears signals at once.
clip2video-pipe run "$config" --address "$address" "$@" &
driver=$!
code=0
wait "$driver" || code=$?
driver=
exit "$code"
