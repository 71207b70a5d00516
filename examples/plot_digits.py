"""
How do I draw new images of a class?
====================================

``JKOFlowClassifier`` has the density of the features in every class, and draws from it.
Images are first reduced to some principal components, and samples are mapped back.
"""

# SPDX-License-Identifier: BSD-3-Clause

# %%
# scikit-learn's digits have 8 x 8 pixels. 24 components have most of their variance;
# what is left out is nearly noise, which would blur the samples.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from skjko import JKOFlowClassifier, JKOFlowDensity

images, digits = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    images, digits, test_size=0.2, stratify=digits, random_state=0
)
pca = PCA(24, random_state=0).fit(X_train)
Z_train, Z_test = pca.transform(X_train), pca.transform(X_test)
print(f"{pca.explained_variance_ratio_.sum():.0%} of the variance")

flow = JKOFlowDensity(max_blocks=1, max_iter=60)
model = JKOFlowClassifier(flow, random_state=0).fit(Z_train, y_train)
print(model.summary())
print(f"accuracy on test images: {model.score(Z_test, y_test):.1%}")


# %%
# Samples of every class. The first column has test images.
def show(rows, title):
    size = (0.6 * rows.shape[1], 0.6 * rows.shape[0] + 0.4)
    fig, axes = plt.subplots(*rows.shape[:2], figsize=size, layout="constrained")
    for image, ax in zip(rows.reshape(-1, 8, 8), axes.flat, strict=True):
        ax.imshow(image, cmap="gray_r", vmin=0, vmax=16)
        ax.set_axis_off()
    fig.suptitle(title)


samples = np.stack(
    [
        pca.inverse_transform(model.sample(digit, n_samples=9, random_state=0))
        for digit in range(10)
    ]
)
tests = np.stack([X_test[y_test == digit][:1] for digit in range(10)])
show(np.concatenate([tests, samples], axis=1), "One test image and nine samples")

# %%
# A density of all digits maps images to latent ones, which are standard normal. The
# way back from points between two of them gives images between two test images.
density = JKOFlowDensity(
    init="gaussian", max_blocks=2, max_iter=100, random_state=0
).fit(Z_train)
ends = density.transform(Z_test[:12]).reshape(2, 6, 1, -1)
share = np.linspace(0, 1, 9)[:, np.newaxis]
# Along an arc: on a straight line the norms in the middle would be unusually small.
angle = np.pi / 2 * share
between = np.cos(angle) * ends[0] + np.sin(angle) * ends[1]
back = density.inverse_transform(between.reshape(-1, between.shape[2]))
walks = pca.inverse_transform(back).reshape(6, 9, 64)
show(walks, "From one test image to another")
plt.show()
