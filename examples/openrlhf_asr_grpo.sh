#!/usr/bin/env bash
# GRPO on segments in OpenRLHF, from the root of the repository: MODEL=... DATA=... bash examples/openrlhf_asr_grpo.sh
#
# DATA is a data set with the columns `question` and `answer`. Rollouts need vLLM, and therefore a GPU.
set -euo pipefail

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the function of the token rewards, in Ray workers as well

segkernel run --patch openrlhf \
    --advantages segkernel_asr_grpo rewards=examples.openrlhf_rewards.token_rewards delta=0.5 \
    -- -m openrlhf.cli.train_ppo_ray \
    --algo.advantage.estimator group_norm \
    --rollout.n_samples_per_prompt 8 \
    --reward.remote_url "$PWD/examples/openrlhf_rewards.py" \
    --actor.model_name_or_path "$MODEL" \
    --data.prompt_dataset "$DATA" \
    --data.input_key question \
    --data.label_key answer \
    --train.colocate_all \
    --vllm.num_engines 1
