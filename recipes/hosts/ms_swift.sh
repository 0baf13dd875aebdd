#!/usr/bin/env bash
# bash recipes/hosts/ms_swift.sh        (python recipes/hosts/prepare.py runs/hosts makes model and data)
set -euo pipefail
swift rlhf --rlhf_type dpo \
    --external_plugins recipes/hosts/spinal_plugin.py --callbacks spinal \
    --model runs/hosts/tiny --model_type llama --template chatml --tuner_type full --torch_dtype float32 \
    --dataset runs/hosts/ms_swift.jsonl --split_dataset_ratio 0 --max_length 1024 \
    --output_dir runs/hosts/ms_swift --max_steps 4 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 \
    --learning_rate 1e-3 --logging_steps 1 --report_to none --use_hf true \
    --use_cpu true --bf16 false --gradient_checkpointing false
