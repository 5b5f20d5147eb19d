# Options for GRPO on segments in slime. In a script of slime's, such as scripts/run-qwen3-4B.sh:
#
#     source $SEGKERNEL/examples/slime_asr_grpo.sh
#
# and "${SEGMENT_ARGS[@]}" among the arguments of train.py, with $SEGKERNEL/examples on PYTHONPATH of the job. It writes
# segkernel.yaml in the current folder.
cat > segkernel.yaml <<YAML
segkernel:
  delta: 0.5 # half the width of the neutral zone, in units of the token rewards
YAML

SEGMENT_ARGS=(
    --advantage-estimator grpo
    --custom-rm-path slime_rewards.reward
    --reward-key score
    --custom-reward-post-process-path segkernel.integrations.slime.asr_grpo
    --custom-advantage-function-path segkernel.integrations.slime.token_advantages
    --custom-config-path "$PWD/segkernel.yaml"
)
