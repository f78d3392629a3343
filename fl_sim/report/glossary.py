"""How the numbers are defined, in words for the page."""

GLOSSARY = (
    (
        "accuracy",
        "Share of clean test images that the global model gets right, never of protected ones. "
        "Guessing gives 1 / classes.",
    ),
    (
        "best",
        "Highest accuracy of any round. It is chosen on the test images, so it is optimistic; "
        "nothing else here uses it.",
    ),
    ("A_all", "Accuracy of the same run when nobody protects anything."),
    (
        "A_clean",
        "Accuracy of the same run when the images to be protected are left out. Undefined where "
        "everything is protected.",
    ),
    (
        "A_mix",
        "Accuracy of the run itself, with clean and protected images together. It is high even "
        "under perfect protection, because the clean part suffices: read it beside A_clean.",
    ),
    (
        "gap",
        "A_clean - A_mix. Above 0, protected images hurt; 0, they add nothing, which is the aim; "
        "below 0, they still teach the model.",
    ),
    (
        "ratio",
        "(A_mix - A_clean) / (A_all - A_clean), the extraction ratio: 1, protection is useless; "
        "0, perfect. Undefined where A_all is not at least half a point above A_clean.",
    ),
    (
        "audited records",
        "As many images that were trained on (members) as held out (outsiders) in each client, "
        "class and protected status, so that a shift of classes or of noise is not taken for "
        "membership.",
    ),
    (
        "margin attack",
        "Scores a record by log p - log(1 - p) of its label under the final model; higher means "
        "more likely a member. The attacker is any client, who holds the global model.",
    ),
    (
        "AUC",
        "Chance that a random member scores above a random outsider. Guessing gives 0.5. Interval: "
        "DeLong, 95 %.",
    ),
    (
        "balanced accuracy",
        "Best mean of hit rate and rejection rate over all thresholds. Chosen on the audited "
        "records, so an upper bound; guessing gives a little above 50 %.",
    ),
    (
        "TPR at 1 % FPR",
        "Largest share of members found while at most 1 % of outsiders are accused, read off the "
        "step curve. Guessing gives 1 %. Interval: Clopper-Pearson, 95 %. Below 3 / FPR outsiders "
        "it is greyed out (rule of three).",
    ),
    (
        "shift-only AUC",
        "Control: protected against clean outsiders, where nobody is a member. Away from 0.5, the "
        "score reacts to the noise itself.",
    ),
    (
        "accuracy of a client",
        "Mean of the test accuracies by class, weighted by the client's shares of the classes; "
        "exact for a skew of labels, and not measured on a handful of images.",
    ),
    (
        "spread over clients",
        "Population standard deviation of the clients' accuracies; an even federation has 0.",
    ),
    (
        "worst and best 10 %",
        "Mean accuracy of the lowest or highest tenth of the clients, at least one.",
    ),
    (
        "CVaR 10 %",
        "Mean accuracy of the lowest tenth of the clients, counting a part of a client where a "
        "tenth of them is no whole number.",
    ),
    (
        "variance, parity gap",
        "Square of the spread, in percent squared as in papers; and highest minus lowest client.",
    ),
    (
        "Jain",
        "(sum x)² / (k sum x²) of the k clients' accuracies x, from 1 / k to 1; even gives 1.",
    ),
    (
        "Gini",
        "Mean difference of two clients over twice the mean, from 0 to 1 - 1 / k; even gives 0.",
    ),
    ("entropy", "Entropy of the clients' shares of the total over log k; even gives 1."),
    (
        "protected gap, attacker gap",
        "Mean of protected clients minus that of clean ones; and of attackers minus that of all "
        "others. Undefined where there is only one kind. Honest: without attackers.",
    ),
    (
        "excess spread",
        "Standard deviation of the clients' AUCs beyond what measuring them on few records gives: "
        "the root of their variance minus the mean square of DeLong's errors, at least 0.",
    ),
    (
        "Shapley, leave-one-out, cosine",
        "What a client's last update adds to the accuracy: averaged over the orders in which "
        "clients could have joined (GTG-Shapley); when it alone is missing; and its angle to the "
        "mean of all updates.",
    ),
    (
        "attack success",
        "Share of test images of other classes that end in a backdoor's target class once its "
        "trigger is stamped on them; without trigger, what ends there anyway.",
    ),
    (
        "worst case",
        "Accuracy of a rule under the attack, of those that were run, that hurts it most.",
    ),
    (
        "MB up, MB down",
        "10⁶ bytes of trained parameters and statistics that clients send and receive, over all "
        "rounds and clients, without the transport's own.",
    ),
    ("seconds", "Time of the rounds, without loading data, making noise or the final audit."),
    ("peak MiB", "Largest memory of the process that drives the run."),
)
