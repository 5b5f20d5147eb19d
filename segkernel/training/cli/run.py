"""Run of a trainer from the command line: train, evaluate, save, report."""

from typing import Any

from segkernel.training.report import write_report
from segkernel.training.trainer.base import SegkernelTrainer


def run(trainer: SegkernelTrainer, method: str) -> dict[str, Any]:
    """Train, evaluate, save the model and write the report.

    Returns:
        The held-out metrics of the trained model, `eval_...`; none without held-out rows.
    """
    arguments = trainer.args
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    metrics = held_out_metrics(trainer)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        report = write_report(
            arguments.output_dir,
            title=f"segkernel {method}",
            log_history=trainer.state.log_history,
            examples=trainer.report_examples(),
            summary=metrics,
        )
        for name, value in metrics.items():
            print(f"{name:30} {value:.4g}")
        print(f"model:  {arguments.output_dir}\nreport: {report}")
    return metrics


def held_out_metrics(trainer: SegkernelTrainer) -> dict[str, Any]:
    """Metrics of the trained model on the held-out rows, evaluated unless the run ended on an evaluation."""
    if trainer.eval_dataset is None:
        return {}
    last = [log for log in trainer.state.log_history if "eval_loss" in log][-1:]
    if not last or last[0]["step"] != trainer.state.global_step or trainer.args.load_best_model_at_end:
        last = [trainer.evaluate()]
    return {name: value for name, value in last[0].items() if name.startswith("eval_")}
