"""How long does one core need to learn 10,000 colour photographs to 65 %?

Run:    fl-sim sweep experiments/colour_recipe.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

One client holds all images and trains for several rounds of one epoch with a falling learning rate,
which is central training with crops and flips.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.countermeasures.crop_flip import CropFlip
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from strategies.fedavg import FedAvg

EPOCHS = 16

EXPERIMENT = Experiment(
    name="colour_recipe",
    data=Data(dataset="cifar10", num_clients=1, num_samples=10_000, num_test=10_000, held_out=0.0),
    partition=Iid(),
    model=Model("resnet9", width=8),
    client=SgdClient(
        learning_rate=0.01,
        learning_rate_decay=0.8,
        batch_size=64,
        weight_decay=5e-4,
        countermeasures=(CropFlip(),),
    ),
    strategy=FedAvg(),
    evaluation=Evaluation(every=EPOCHS),
    rounds=EPOCHS,
)
AXES = {
    "network": {
        "ResNet-9 of width 8": {},
        "small CNN": {"model": Model("small_cnn")},
    }
}
SEEDS = (0,)
