"""The sections that say what goes in: data, model, teacher."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema

from rnow_core.config.section import Count, Files, OptionalFiles, Section, Text

Quantization = Literal["nf4"]


class DataConfig(Section):
    """What is trained on, and how much of it a step takes."""

    train_file: Files = Field(
        default=["train.jsonl"],
        description="Training rows: a file or a list; the index in the list is the data set's number.",
    )
    val_file: OptionalFiles = Field(
        default=None, description="Held-out rows for evaluation: a file or a list."
    )
    val_split: float | None = Field(
        default=None, gt=0, lt=1, description="Share of the training rows to hold out instead of a val_file."
    )
    batch_size: Count = Field(default=4, description="Prompts a step (sft: conversations).")
    group_size: Count = Field(default=4, description="Rollouts of each prompt.")


def _double_rank(value: Any, info: ValidationInfo) -> Any:
    return 2 * info.data.get("qlora_rank", 32) if value is None else value


class ModelConfig(Section):
    """The student."""

    path: Text = Field(description="Hugging Face id or folder of the student.")
    adapter: Text | None = Field(default=None, description="Folder of the adapter to start from.")
    qlora_rank: int = Field(default=32, ge=0, description="Rank of the LoRA adapter; 0 = full fine-tuning.")
    qlora_alpha: Annotated[
        int,
        Field(ge=0),
        BeforeValidator(_double_rank),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}),
    ] = Field(
        default=None,
        validate_default=True,
        description="LoRA scale: updates are multiplied by alpha / rank; null = 2 * rank.",
    )
    target_modules: Literal["all-linear"] | list[Text] = Field(
        default="all-linear", description="Modules that get an adapter: all-linear or a list of names."
    )
    quantization: Quantization | None = Field(
        default=None, description="nf4 = the frozen base in 4 bits (QLoRA)."
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Type of the frozen weights; auto = bfloat16 on a GPU, float32 on a CPU."
    )


class TeacherConfig(Section):
    """One teacher: the model whose logprobs of the student's tokens are the signal."""

    name: Text | None = Field(
        default=None, description="What rows and metrics call this teacher; required when there are several."
    )
    path: Text = Field(
        description="Hugging Face id or folder, or self = the student's base weights, adapter off."
    )
    url: Text | None = Field(default=None, description="A running vLLM server that serves the model at path.")
    context: Text | None = Field(
        default=None,
        description="Text that only the teacher sees, whitespace as written; with braces a template over the row.",
    )
    context_file: Text | None = Field(
        default=None, description="A file that holds the context, instead of `context`."
    )
    context_role: Literal["user", "system"] = Field(
        default="user",
        description="The context stands in front of the first user message, or of the row's system message.",
    )
    template: Literal["student", "own"] = Field(
        default="student",
        description="Chat template of the teacher's prompt; own is for teachers of another format.",
    )
    adapter: Text | None = Field(default=None, description="Folder of an adapter that the teacher wears.")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the student's adapter, A and B averaged separately.",
    )
    quantization: Quantization | None = Field(
        default=None, description="nf4 = the teacher's weights in 4 bits."
    )
    eval_baseline: bool = Field(
        default=False, description="Evaluate student and teacher before step 1 and log the gap."
    )
